"""A target's profile in words."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table

from ..backends.base import Target


def weights(target: Target) -> str:
    """The formats of weights of few bits."""
    return "every format" if target.weights is None else str(target.weights)


def show_target(target: Target) -> None:
    """Print all that is known of a target."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
    for heading, text in facts(target).items():
        table.add_row(heading, text)
    Console(markup=False).print(table)


def facts(target: Target) -> dict[str, str]:
    """What a profile says, by what it is about."""
    found = {
        "target": target.name,
        "installed": "yes" if target.missing is None else f"no: {target.missing[1]}",
        "takes": target.takes,
        "weights of few bits": weights(target),
    }
    if target.lacks:
        found["written in other ops"] = ", ".join(sorted(target.lacks))
    if target.masked > -math.inf:
        found["scores that do not count"] = f"{target.masked:g}"
    if target.opset is not None:
        found["ONNX opset"] = str(target.opset)
    if target.installed:
        found["options"] = ", ".join(target.options()) or "none"
    return found
