"""Arithmetic on symbolic numbers, which TVM knows as expressions, and the parts of tuples."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from ....ir import Node, ScalarType
from ....ir.graph import Arg
from ..builder import Builder, Value


def _dtype(*args: Arg) -> torch.dtype:
    """Where a comparison or a division takes place."""
    kinds = {a.type.kind for a in args if isinstance(a, Node) and isinstance(a.type, ScalarType)}
    floats = "float" in kinds or any(isinstance(arg, float) for arg in args)
    return torch.float64 if floats else torch.int64


def _binary(function: Callable[..., Any]) -> Callable[[Builder, Node, Arg, Arg], Any]:
    def lowering(builder: Builder, node: Node, a: Arg, b: Arg) -> Any:
        dtype = _dtype(a, b)
        return function(builder.scalar(a, dtype), builder.scalar(b, dtype))

    return lowering


def _with(name: str) -> Callable[[Builder, Node, Arg, Arg], Any]:
    """A function of TVM's own."""

    def lowering(builder: Builder, node: Node, a: Arg, b: Arg) -> Any:
        return _binary(getattr(builder.tirx, name))(builder, node, a, b)

    return lowering


def truediv(builder: Builder, node: Node, a: Arg, b: Arg) -> Any:
    return builder.tirx.div(*(builder.scalar(arg, torch.float64) for arg in (a, b)))


def neg(builder: Builder, node: Node, a: Arg) -> Any:
    return -builder.scalar(a, _dtype(a))


def where(builder: Builder, node: Node, condition: Arg, a: Arg, b: Arg) -> Any:
    dtype = _dtype(a, b)
    chosen = (builder.scalar(arg, dtype) for arg in (a, b))
    return builder.tirx.Select(builder.scalar(condition, torch.bool), *chosen)


def getitem(builder: Builder, node: Node, value: Arg, index: int) -> Value:
    return builder.value(value)[index]


def sym_size(b: Builder, node: Node, self: Node, dim: int) -> Any:
    return b.size(self.shape[dim])


LOWERINGS: dict[str, Callable[..., Any]] = {
    "getitem": getitem,
    "sym_size": sym_size,
    "int_add": _binary(operator.add),
    "int_sub": _binary(operator.sub),
    "int_mul": _binary(operator.mul),
    "int_floordiv": _with("floordiv"),
    "int_mod": _with("floormod"),
    "int_truediv": truediv,
    "int_neg": neg,
    "int_eq": _with("EQ"),
    "int_ne": _with("NE"),
    "int_lt": _with("LT"),
    "int_le": _with("LE"),
    "int_gt": _with("GT"),
    "int_ge": _with("GE"),
    "int_max": _with("max"),
    "int_min": _with("min"),
    "int_where": where,
}
