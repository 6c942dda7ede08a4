"""What passes that take something out have in common: how they are asked, and what they say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from ...ir import InputError

Option = TypeVar("Option")


def check_part(part: float, option: str = "remove", of: str = "a network") -> None:
    """Raise ``InputError`` where what is to go is no part from 0 to below 1."""
    if not 0 <= part < 1:
        raise InputError(
            f"{option}={part} is not the part of {of} that can go",
            do=f"a part from 0 to below 1, such as {option}=0.25",
        )


def check_known(asked: Iterable[object], known: Iterable[str], what: str) -> None:
    """Raise ``InputError`` where something is asked for by a name that nothing has."""
    names = list(known)
    for one in asked:
        if one not in names:
            raise InputError(
                f"there is no {what} {one!r}", do=f"one of {', '.join(map(repr, names))}"
            )


def lessened(before: tuple[int, int], after: tuple[int, int]) -> str:
    """What a graph costs, and what it did, in parameters and products."""
    return ", ".join(
        f"{what} {was:,} to {now:,} (-{100 * (1 - now / max(was, 1)):.3g} %)"
        for what, was, now in zip(("parameters", "products"), before, after, strict=True)
    )


def named(asked: Option | str, known: Mapping[str, Option], what: str) -> Option:
    """What is asked for, itself or by a name; raises ``InputError`` where nothing has that name."""
    if not isinstance(asked, str):
        return asked
    check_known([asked], known, what)
    return known[asked]
