"""Options of passes: which numbers and names they may be, and what is said of others."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from types import NoneType
from typing import Any, TypeVar, get_args

from ..ir import InputError

Option = TypeVar("Option")


@dataclass(frozen=True)
class Range:
    """The numbers that an option may be.

    Args:
        low, high: The least and the greatest.
        above, below: Whether the least, and the greatest, are themselves none.
        whole: Whether fractions are none.
        words: What it may be besides.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False
    words: tuple[object, ...] = ()

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return any(value is word or value == word for word in self.words)
        number = float(value)
        over = number > self.low or (number == self.low and not self.above)
        return over and (number < self.high or (number == self.high and not self.below))

    def __or__(self, word: object) -> Range:
        """The same numbers, or a word."""
        return replace(self, words=(*self.words, word))

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        start = f" {'above' if self.above else 'from'} {self.low:g}" if self.low > -math.inf else ""
        end = "" if self.high == math.inf else f" to {'below ' * self.below}{self.high:g}"
        return " or ".join([f"{kind}{start}{end}", *map(repr, self.words)])


COUNT = Range(1, whole=True)
SOME = Range(0, whole=True)  # a count that may be none
NUMBER = Range(-math.inf, math.inf, above=True, below=True)
AMOUNT = Range(0, math.inf, below=True)
POSITIVE = Range(0, math.inf, above=True, below=True)
SHARE = Range(0, 1)
PART = Range(0, 1, below=True)
BITS = Range(2, 8, whole=True)  # of codes that are simulated


def check_numbers(options: object, **ranges: Range) -> None:
    """Raise ``InputError`` where an option, by its name, is not one of the numbers it may be."""
    for name, range_ in ranges.items():
        value = getattr(options, name)
        if value not in range_:
            raise InputError(
                f"{name}={value!r} is not what {type(options).__name__} takes",
                do=f"{name}: {range_}",
            )


def check_kinds(options: object, **kinds: Any) -> None:
    """Raise ``InputError`` where an option, by its name, is no object of its class, or of one of a
    union."""
    for name, kind in kinds.items():
        value = getattr(options, name)
        if not isinstance(value, kind):
            words = " or ".join(map(_words, get_args(kind) or (kind,)))
            raise InputError(
                f"{name}={value!r} is not what {type(options).__name__} takes",
                do=f"{name}: {words}",
            )


_WORDS: Mapping[Any, str] = {
    NoneType: "None",
    str: "a name",
    bool: "True or False",
    Mapping: "a mapping",
    Callable: "a function",
}


def _words(kind: Any) -> str:
    return _WORDS.get(kind, f"an object of the class {kind.__name__}")


def check_several(given: object, option: str, such: object = "name") -> None:
    """Raise ``InputError`` where an option that takes several is given one that is in no tuple."""
    if isinstance(given, str) or not isinstance(given, Collection):
        one = given if isinstance(given, str) else such
        raise InputError(f"{option}={given!r} is no tuple", do=f"{option}=({one!r},)")


def check_known(asked: Iterable[object], known: Iterable[object], what: str) -> None:
    """Raise ``InputError`` where something is asked for by a name that nothing has."""
    names = list(known)
    for one in asked:
        if one not in names:
            raise InputError(
                f"there is no {what} {one!r}", do=f"one of {', '.join(map(repr, names))}"
            )


def named(
    asked: Option | str, known: Mapping[str, Option], what: str, kind: type[Option]
) -> Option:
    """What is asked for, itself or by a name; raises ``InputError`` where nothing has that name, or
    it is no object of its class."""
    if isinstance(asked, kind):
        return asked
    if isinstance(asked, str):
        check_known([asked], known, what)
        return known[asked]
    raise InputError(
        f"{asked!r} is no {what}",
        do=f"one of {', '.join(map(repr, known))}, or an object of the class {kind.__name__}",
    )


def nearest(to: float, numbers: Iterable[int], count: int = 3) -> str:
    """Those of some numbers that are nearest, in order, as text; empty where there are none."""
    near = sorted(sorted(numbers, key=lambda number: (abs(number - to), number))[:count])
    *most, last = map(str, near or [""])
    return f"{', '.join(most)} or {last}" if most else last


def divisors(size: int) -> Collection[int]:
    """The numbers that divide a size."""
    return [number for number in range(1, size + 1) if size % number == 0]
