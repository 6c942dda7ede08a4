"""What passes that take something out have in common: the part that goes, and what they say."""

from __future__ import annotations

import math
from typing import Any

from ...ir import Graph, InputError
from ..base import Remark, decided
from ..options import PART


def check_part(part: object, option: str = "remove", of: str = "a network") -> None:
    """Raise ``InputError`` where what is to go is no part from 0 to below 1."""
    if part not in PART:
        raise InputError(
            f"{option}={part} is not the part of {of} that can go",
            do=f"a part from 0 to below 1, such as {option}=0.25",
        )


def spared(
    graph: Graph,
    before: tuple[int, int],
    after: tuple[int, int],
    *,
    first: str = "",
    latency: tuple[float, float] | None = None,
    **data: Any,
) -> Remark:
    """What is decided for the whole: what a graph costs, and what it did, in parameters and
    products.

    Args:
        first: What is said before that.
        latency: The time before and after, where that is limited.
        data: Further figures.
    """
    told = [
        f"{what} {was:,} to {now:,} ({100 * (now / max(was, 1) - 1):+.3g} %)"
        for what, was, now in zip(("parameters", "products"), before, after, strict=True)
    ]
    data |= {"parameters": after[0], "macs": after[1], "preparation": True}
    if latency is not None:
        was, now = latency
        told.append(f"latency {was:.4g} to {now:.4g} ({100 * (now / was - 1):+.3g} %)")
        data |= {"latency": now, "latency_before": was}
    text = ", ".join(told)
    return decided(graph, f"{first}; {text}" if first else text, **data)


def whole(number: float) -> int:
    """The greatest whole number in one that may lack the last digits of it, as 50 * (1 - 0.9)."""
    return math.floor(number * (1 + 1e-12))


def at_most(part: float) -> str:
    """The greatest part that can go, as text; never more than it is."""
    return f"{math.floor(part * 1e4 + 1e-6) / 1e4:.4g}"
