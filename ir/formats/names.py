"""Names of formats, as users write them: ``int4-g128-asym``, ``mxfp4``, ``nf4-g64-fp16``.

A name is an element and then, in any order, which numbers share a scale, how the scale is stored,
and ``asym``. ``str`` of a format gives the name back, with nothing in it that goes without saying.
"""

from __future__ import annotations

import copyreg
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import get_args

from ..errors import InputError
from .codebooks import Binary, Logarithmic, normal_float, ternary, uniform
from .elements import Element
from .floats import Minifloat, Specials
from .format import ALIASES, Format, block_float
from .granularity import Granularity, Kind
from .integers import Integer
from .scales import Rounding, ScaleFormat, Storage
from .vectors import Phase, lattice

SHORT = {"mxfp8": "mxfp8-e4m3", "mxfp6": "mxfp6-e2m3"}
LONG = {alias: name for name, alias in ALIASES.items()}


@dataclass(frozen=True)
class _Row:
    """Names of elements.

    Args:
        pattern: What they look like.
        make: The element of a match.
        examples: For a user who looks for one.
    """

    pattern: str
    make: Callable[[re.Match[str]], Element]
    examples: str


def _integer(match: re.Match[str]) -> Integer:
    return Integer(int(match[1]), fraction=int(match[2] or 0), narrow=bool(match[3]))


def _float(match: re.Match[str]) -> Minifloat:
    bits, exponent, mantissa = (int(match[i]) for i in (1, 2, 3))
    if bits != (total := 1 + exponent + mantissa):
        raise InputError(f"fp{bits}-e{exponent}m{mantissa}: a sign, E and M make {total} bits")
    specials = SPECIALS[match[5]] if match[5] else None
    return Minifloat(exponent, mantissa, float(match[4]) if match[4] else None, specials)


ROWS = (
    _Row(r"int(\d)(?:q(\d))?(-narrow)?", _integer, "int2 .. int8, int8-narrow, int8q6"),
    _Row(r"uint(\d)", lambda m: Integer(int(m[1]), signed=False), "uint1 .. uint8"),
    _Row(
        r"fp(\d)-e(\d)m(\d)(?:-bias(-?\d+(?:\.\d+)?(?:e-?\d+)?))?(?:-(none|nan|ieee))?",
        _float,
        "fp4-e2m1, fp4-e3m0, fp6-e2m3, fp6-e3m2, fp8-e4m3, fp8-e5m2, fp5-e2m2-bias0.75",
    ),
    _Row(r"nf([2-8])", lambda m: normal_float(int(m[1])), "nf2 .. nf8"),
    _Row(r"log2-(\d)", lambda m: Logarithmic(int(m[1])), "log2-4"),
    _Row(r"logsqrt2-(\d)", lambda m: Logarithmic(int(m[1]), 2), "logsqrt2-4"),
    _Row(r"uniform([1-8])", lambda m: uniform(int(m[1])), "uniform1 .. uniform8"),
    _Row(r"ternary", lambda _: ternary(), "ternary"),
    _Row(r"binary", lambda _: Binary(), "binary"),
    _Row(r"phase", lambda _: Phase(), "phase"),
    _Row(r"(d4|e8)", lambda m: lattice(m[1]), "d4, e8"),
)
SHARING = "tensor, channel, channel@1, token, g128, g128@0; -pad to fill up the last group"
STORAGE = (
    "fp32, fp16, bf16, e4m3, e8m0 (-up, -down, -floor, -ceil); -twofold under one of the tensor"
)

KINDS: dict[str, Kind] = {word: word for word in get_args(Kind)}
SPECIALS: dict[str, Specials] = {word: word for word in get_args(Specials)}
STORAGES: dict[str, Storage] = {word: word for word in get_args(Storage)}
ROUNDINGS: dict[str, Rounding] = {word: word for word in get_args(Rounding)}
WORDS = {
    **dict.fromkeys(STORAGES, "storage"),
    **dict.fromkeys(ROUNDINGS, "rounding"),
    **{word: word for word in ("pad", "twofold", "asym")},
}


def named(name: str) -> Format:
    """The format of a name; a format pickles as that."""
    text = name.strip().lower()
    text = SHORT.get(text, text)
    text = LONG.get(text, text)
    if match := re.fullmatch(r"bfp([2-8])-b(\d+)", text):
        return block_float(int(match[1]), int(match[2]))
    for row in ROWS:
        if match := re.match(rf"{row.pattern}(?=-|$)", text):
            return _format(name, row.make(match), re.split(r"(?<!@)-", text[match.end() :])[1:])
    raise _unknown(name)


def _format(name: str, element: Element, words: list[str]) -> Format:
    """An element and what the other words of a name say of it."""
    shared = Granularity("tensor")
    found: dict[str, str] = {}
    for word in words:
        if match := re.fullmatch(r"(tensor|channel|token|g(\d+))(?:@(-?\d+))?", word):
            kind = "group" if match[2] else KINDS[match[1]]
            axis = None if match[3] is None else int(match[3])
            shared = Granularity(kind, int(match[2] or 0), axis)
            what = "granularity"
        else:
            what = WORDS.get(word, "")
        if not what:
            raise InputError(
                f"'{word}' in '{name}' is not known", do=f"known: {SHARING}; {STORAGE}; asym"
            )
        if what in found:
            raise InputError(f"'{found[what]}' and '{word}' in '{name}' exclude each other")
        found[what] = word
    storage = found.get("storage", "fp32")
    rounding = found.get("rounding", "up" if storage == "e8m0" else "nearest")
    if "asym" in found:
        if not (isinstance(element, Integer) and not element.fraction and not element.narrow):
            raise InputError(f"only integers have a zero point: '{name}'")
        element = Integer(element.width, signed=False)
    scale = ScaleFormat(STORAGES[storage], ROUNDINGS[rounding], "twofold" in found)
    return Format(element, replace(shared, pad="pad" in found), scale, "asym" in found)


def _unknown(name: str) -> InputError:
    examples = [row.examples for row in ROWS]
    known = [*SHORT, *LONG, "bfp5-b16", *", ".join(examples).split(", ")]
    close = get_close_matches(name, known, 3, 0.6)
    listing = [
        f"known: {', '.join([*LONG, 'bfp5-b16'])}",
        *(f"  {text}" for text in examples),
        f"each with any of: {SHARING}; {STORAGE}; asym",
    ]
    hint = f"did you mean {', '.join(close)}? " if close else ""
    return InputError(f"no format is called '{name}'", do=hint + "\n      ".join(listing))


def _reduced(form: Format) -> tuple[Callable[[str], Format], tuple[str]]:
    return named, (str(form),)


copyreg.pickle(Format, _reduced)
