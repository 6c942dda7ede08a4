"""Arithmetic on symbolic numbers, which are ``int64[1]``, and the parts of tuples."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ....ir import Node, ScalarType
from ....ir.graph import Arg
from ..builder import SCALARS, Builder, Value


def _number(b: Builder, arg: Arg, dtype: torch.dtype) -> str:
    """A number as ``dtype[1]``."""
    if not isinstance(arg, Node):
        return b.constant([arg], dtype)
    assert isinstance(arg.type, ScalarType)
    name = b.value(arg)
    assert isinstance(name, str)
    return name if SCALARS[arg.type.kind] == dtype else b.cast(name, dtype)


def _dtype(node: Node, *args: Arg) -> torch.dtype:
    """Where a comparison or a division takes place."""
    kinds = {a.type.kind for a in args if isinstance(a, Node) and isinstance(a.type, ScalarType)}
    floats = "float" in kinds or any(isinstance(arg, float) for arg in args)
    return torch.float64 if floats else torch.int64


def _binary(kind: str, *, negate: bool = False) -> Callable[[Builder, Node, Arg, Arg], str]:
    def lowering(builder: Builder, node: Node, a: Arg, b: Arg) -> str:
        dtype = _dtype(node, a, b)
        result = builder.op(kind, _number(builder, a, dtype), _number(builder, b, dtype))
        return builder.op("Not", result) if negate else result

    return lowering


def floordiv(builder: Builder, node: Node, a: Arg, b: Arg) -> str:
    x, y = _number(builder, a, torch.int64), _number(builder, b, torch.int64)
    return builder.op("Div", builder.op("Sub", x, builder.op("Mod", x, y)), y)


def truediv(builder: Builder, node: Node, a: Arg, b: Arg) -> str:
    return builder.op("Div", *(_number(builder, arg, torch.float64) for arg in (a, b)))


def neg(builder: Builder, node: Node, a: Arg) -> str:
    return builder.op("Neg", _number(builder, a, _dtype(node, a)))


def where(builder: Builder, node: Node, condition: Arg, a: Arg, b: Arg) -> str:
    dtype = _dtype(node, a, b)
    chosen = (_number(builder, arg, dtype) for arg in (a, b))
    return builder.op("Where", _number(builder, condition, torch.bool), *chosen)


def getitem(builder: Builder, node: Node, value: Arg, index: int) -> Value:
    parts = builder.value(value)
    return parts[index]


def sym_size(b: Builder, node: Node, self: Node, dim: int) -> str:
    dim %= len(self.shape)
    size = self.shape[dim]
    return b.ints(size) if isinstance(size, int) else b.size(b.tensor(self), dim)


def item(b: Builder, node: Node, self: Node) -> str:
    """The one number in a tensor."""
    assert isinstance(node.type, ScalarType)
    return b.op("Reshape", b.tensor(self, SCALARS[node.type.kind]), b.ints(1))


LOWERINGS = {
    "aten.item.default": item,
    "getitem": getitem,
    "sym_size": sym_size,
    "int_add": _binary("Add"),
    "int_sub": _binary("Sub"),
    "int_mul": _binary("Mul"),
    "int_floordiv": floordiv,
    "int_mod": _binary("Mod"),
    "int_neg": neg,
    "int_truediv": truediv,
    "int_eq": _binary("Equal"),
    "int_ne": _binary("Equal", negate=True),
    "int_lt": _binary("Less"),
    "int_le": _binary("LessOrEqual"),
    "int_gt": _binary("Greater"),
    "int_ge": _binary("GreaterOrEqual"),
    "int_max": _binary("Max"),
    "int_min": _binary("Min"),
    "int_where": where,
}
