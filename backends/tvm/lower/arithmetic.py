"""Arithmetic and comparison of two values, with PyTorch's promotion of dtypes made explicit."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from ....ir import Node
from ....ir.graph import Arg
from ...lowering import Declined, promoted
from ..builder import Builder

_Function = Callable[..., Any]


def _of(b: Builder, node: Node, function: _Function, *args: Arg, dtype: torch.dtype) -> Any:
    """A function of operands in a dtype."""
    operands = (b.operand(arg, dtype) for arg in args)
    return b.map(node.shape, function, *operands, name=node.op.split(".")[-1].strip("_"))


def _same(function: Callable[[Any], _Function]) -> Callable[..., Any]:
    """An op in the dtype of its result."""

    def lowering(b: Builder, node: Node, self: Arg, other: Arg) -> Any:
        return _of(b, node, function(b.tirx), self, other, dtype=node.dtype)

    return lowering


def _compare(function: _Function) -> Callable[..., Any]:
    def lowering(b: Builder, node: Node, self: Arg, other: Arg) -> Any:
        dtype = promoted(self, other)
        dtype = torch.int32 if dtype == torch.bool else dtype
        return _of(b, node, function, self, other, dtype=dtype)

    return lowering


def _logical(name: str) -> Callable[..., Any]:
    def lowering(b: Builder, node: Node, self: Arg, other: Arg) -> Any:
        return _of(b, node, getattr(b.tirx, name), self, other, dtype=torch.bool)

    return lowering


def _bitwise(name: str, function: _Function) -> Callable[..., Any]:
    def lowering(b: Builder, node: Node, self: Arg, other: Arg) -> Any:
        if node.dtype == torch.bool:
            return _logical(name)(b, node, self, other)
        return _of(b, node, function, self, other, dtype=node.dtype)

    return lowering


def add(b: Builder, node: Node, self: Arg, other: Arg, alpha: Arg = 1) -> Any:
    if node.dtype == torch.bool:
        return _logical("any")(b, node, self, other)
    if alpha == 1:
        return _of(b, node, operator.add, self, other, dtype=node.dtype)
    return _of(b, node, lambda x, y, a: x + a * y, self, other, alpha, dtype=node.dtype)


def sub(b: Builder, node: Node, self: Arg, other: Arg, alpha: Arg = 1) -> Any:
    if alpha == 1:
        return _of(b, node, operator.sub, self, other, dtype=node.dtype)
    return _of(b, node, lambda x, y, a: x - a * y, self, other, alpha, dtype=node.dtype)


def rsub(b: Builder, node: Node, self: Arg, other: Arg, alpha: Arg = 1) -> Any:
    return _of(b, node, lambda x, y, a: y - a * x, self, other, alpha, dtype=node.dtype)


def mul(b: Builder, node: Node, self: Arg, other: Arg) -> Any:
    if node.dtype == torch.bool:
        return _logical("all")(b, node, self, other)
    return _of(b, node, operator.mul, self, other, dtype=node.dtype)


def div(b: Builder, node: Node, self: Arg, other: Arg, rounding_mode: str | None = None) -> Any:
    t, floats = b.tirx, node.dtype.is_floating_point
    if rounding_mode == "floor":
        return floor_divide(b, node, self, other)
    if rounding_mode == "trunc":
        function = (lambda x, y: t.trunc(t.div(x, y))) if floats else t.truncdiv
        return _of(b, node, function, self, other, dtype=node.dtype)
    return _of(b, node, t.div, self, other, dtype=node.dtype)


def floor_divide(b: Builder, node: Node, self: Arg, other: Arg) -> Any:
    t, floats = b.tirx, node.dtype.is_floating_point
    function = (lambda x, y: t.floor(t.div(x, y))) if floats else t.floordiv
    return _of(b, node, function, self, other, dtype=node.dtype)


def remainder(b: Builder, node: Node, self: Arg, other: Arg) -> Any:
    t, floats = b.tirx, node.dtype.is_floating_point
    function = (lambda x, y: x - t.floor(t.div(x, y)) * y) if floats else t.floormod
    return _of(b, node, function, self, other, dtype=node.dtype)


def power(b: Builder, node: Node, self: Arg, exponent: Arg) -> Any:
    if exponent == 2:
        return _of(b, node, lambda x: x * x, self, dtype=node.dtype)
    if exponent == 0.5:
        return _of(b, node, b.tirx.sqrt, self, dtype=node.dtype)
    if not node.dtype.is_floating_point:
        raise Declined("of integers")
    return _of(b, node, b.tirx.power, self, exponent, dtype=node.dtype)


def where(b: Builder, node: Node, condition: Arg, self: Arg, other: Arg) -> Any:
    operands = (b.operand(arg, node.dtype) for arg in (self, other))
    return b.map(
        node.shape, b.tirx.Select, b.operand(condition, torch.bool), *operands, name="where"
    )


def masked_fill(b: Builder, node: Node, self: Arg, mask: Arg, value: Arg) -> Any:
    return where(b, node, mask, value, self)


_max, _min = _same(lambda t: t.max), _same(lambda t: t.min)

LOWERINGS = {
    "add": add,
    "sub": sub,
    "rsub": rsub,
    "mul": mul,
    "div": div,
    "floor_divide": floor_divide,
    "remainder": remainder,
    "pow": power,
    "where": where,
    "masked_fill": masked_fill,
    "aten.max.other": _max,
    "aten.min.other": _min,
    "maximum": _max,
    "minimum": _min,
    "eq": _compare(operator.eq),
    "ne": _compare(operator.ne),
    "lt": _compare(operator.lt),
    "le": _compare(operator.le),
    "gt": _compare(operator.gt),
    "ge": _compare(operator.ge),
    "logical_and": _logical("all"),
    "logical_or": _logical("any"),
    "bitwise_and": _bitwise("all", operator.and_),
    "bitwise_or": _bitwise("any", operator.or_),
    "aten.__and__.Tensor": _bitwise("all", operator.and_),
    "aten.__or__.Tensor": _bitwise("any", operator.or_),
}
