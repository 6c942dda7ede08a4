"""The functions that a model calls, each a file of C99 here, in its form for uint8 or float32.

A function whose name ends in ``_u8`` and that has no file for another type is made for it by
putting that in its place; so is one for int32 from one for int64.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from . import pointwise

FILES = {path.stem: path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("*.c")}
_OF = {
    "s8": {r"_u8\b": "_s8", r"\buint8_t\b": "int8_t"},
    "f32": {r"_u8\b": "_f32", r"\buint8_t\b": "float"},
    "s32": {r"_(u8|s64)\b": "_s32", r"\b(uint8|int64)_t\b": "int32_t"},
    "s64": {r"_u8\b": "_s64", r"\buint8_t\b": "int64_t"},
}
RESERVED = frozenset(
    "arena auto break case char const continue default do double else enum extern float for goto "
    "if inline int int8_t int32_t int64_t long model_run register restrict return short signed "
    "size_t sizeof static struct switch typedef uint8_t union unsigned void volatile while window "
    "memcpy main NULL asm typeof bool true false".split()
)
# Of the C library's header for mathematics.
MATHEMATICS = frozenset(
    "ceilf cosf erff expf expm1f fabsf floorf fmaf fmaxf fminf log1pf logf powf rintf sinf sqrtf "
    "tanhf INFINITY".split()
)


def _variant(text: str, kind: str) -> str:
    for old, new in _OF[kind].items():
        text = re.sub(old, new, text)
    return text


KERNELS = {**FILES, **pointwise.KERNELS}
for _name in [name for name in FILES if name.endswith(("_u8", "_s64"))]:
    for _kind in _OF:
        KERNELS.setdefault(_variant(_name, _kind), _variant(FILES[_name], _kind))


def sources(names: Iterable[str]) -> list[str]:
    """The texts of these functions and of all that they call, each after what it calls."""
    found: dict[str, str] = {}

    def visit(name: str) -> None:
        if name in found:
            return
        words = dict.fromkeys(re.findall(r"\w+", KERNELS[name]))
        for word in words:
            if word in KERNELS and word != name:
                visit(word)
        found[name] = KERNELS[name].strip()

    for name in sorted(names):
        visit(name)
    return list(found.values())
