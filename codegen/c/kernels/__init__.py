"""The functions that a model calls, each a file of C99 here, in its form for uint8 or float32.

A function whose name ends in ``_u8`` and that has no file for int8 or float32 is made for these by
putting their types in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

FILES = {path.stem: path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("*.c")}
_OF = {
    "s8": {r"_u8\b": "_s8", r"\buint8_t\b": "int8_t"},
    "f32": {r"_u8\b": "_f32", r"\buint8_t\b": "float"},
}
RESERVED = frozenset(
    "arena auto break case char const continue default do double else enum extern float for goto "
    "if inline int int8_t int32_t long model_run register restrict return short signed sizeof "
    "static struct switch typedef uint8_t union unsigned void volatile while window memcpy fmaf "
    "rintf expf main NULL asm typeof bool true false".split()
)


def _variant(text: str, kind: str) -> str:
    for old, new in _OF[kind].items():
        text = re.sub(old, new, text)
    return text


KERNELS = dict(FILES)
for _name in [name for name in FILES if name.endswith("_u8")]:
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
