"""The types of values: tensors with a dtype and a shape, symbolic numbers, and tuples of these.

A dimension is an ``int``, or a ``str`` that holds an expression over the graph's symbols
(``"batch"``, ``"2*batch"``), spelled as Python's own ``ast`` spells it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch

Dim: TypeAlias = "int | str"
Type: TypeAlias = "TensorType | ScalarType | tuple[Type, ...]"

DTYPES: dict[str, torch.dtype] = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "i8": torch.int8,
    "u8": torch.uint8,
    "u16": torch.uint16,
    "bool": torch.bool,
    "c64": torch.complex64,
    "c128": torch.complex128,
    "f8e4m3": torch.float8_e4m3fn,
    "f8e5m2": torch.float8_e5m2,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorType:
    """A tensor's dtype and shape."""

    dtype: torch.dtype
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    def __str__(self) -> str:
        return f"{DTYPE_NAMES[self.dtype]}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class ScalarType:
    """A number that is known only when the graph runs: ``int``, ``float`` or ``bool``."""

    kind: str

    def __str__(self) -> str:
        return self.kind


def show(type_: Type) -> str:
    """A type as text: ``f32[batch, 384]``, ``int``, ``(f32[4], i64[4])``."""
    if isinstance(type_, tuple):
        return f"({', '.join(map(show, type_))}{',' if len(type_) == 1 else ''})"
    return str(type_)


def dim(expression: object) -> Dim:
    """A dimension from a number or from the text of an expression."""
    if isinstance(expression, int):
        return expression
    tree = ast.parse(str(expression), mode="eval")
    return int(expression) if str(expression).isdigit() else ast.unparse(tree)  # type: ignore[call-overload]


def is_real(type_: Type) -> bool:
    """Whether it is that of a tensor of floating-point numbers."""
    return isinstance(type_, TensorType) and type_.dtype.is_floating_point


def symbols(type_: Type) -> Iterator[str]:
    """The names of the symbols in a type, in order, with repeats."""
    if isinstance(type_, tuple):
        for part in type_:
            yield from symbols(part)
    elif isinstance(type_, TensorType):
        for size in type_.shape:
            if isinstance(size, str):
                yield from re.findall(r"[A-Za-z_]\w*(?!\w*\()", size)


_FUNCTIONS = {"Max": max, "Min": min, "Mod": lambda a, b: a % b, "max": max, "min": min}


def evaluate(size: Dim, values: Mapping[str, int]) -> int:
    """The number a dimension stands for when its symbols have these values."""
    if isinstance(size, int):
        return size
    return int(eval(compile(size, "<dim>", "eval"), {"__builtins__": {}}, {**_FUNCTIONS, **values}))


def of(value: object) -> Type:
    """The type of a concrete value."""
    if isinstance(value, torch.Tensor):
        return TensorType(value.dtype, tuple(dim(size) for size in value.shape))
    if isinstance(value, (tuple, list)):
        return tuple(of(part) for part in value)
    if isinstance(value, (bool, torch.SymBool)):
        return ScalarType("bool")
    if isinstance(value, (int, torch.SymInt)):
        return ScalarType("int")
    if isinstance(value, (float, torch.SymFloat)):
        return ScalarType("float")
    raise TypeError(f"no type for a {type(value).__name__}")
