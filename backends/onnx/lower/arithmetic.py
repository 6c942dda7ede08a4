"""Arithmetic and comparison of two values, with PyTorch's promotion of dtypes made explicit."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ....ir import Node
from ....ir.graph import Arg
from ...lowering import promoted
from ..builder import Builder


def _same(kind: str) -> Callable[[Builder, Node, Arg, Arg], str]:
    def lowering(b: Builder, node: Node, self: Arg, other: Arg) -> str:
        return b.op(kind, b.tensor(self, node.dtype), b.tensor(other, node.dtype))

    return lowering


def _compare(kind: str, *, negate: bool = False) -> Callable[[Builder, Node, Arg, Arg], str]:
    def lowering(b: Builder, node: Node, self: Arg, other: Arg) -> str:
        dtype = promoted(self, other)
        if dtype == torch.bool and kind != "Equal":
            dtype = torch.int32
        result = b.op(kind, b.tensor(self, dtype), b.tensor(other, dtype))
        return b.op("Not", result) if negate else result

    return lowering


def _logical(kind: str) -> Callable[[Builder, Node, Arg, Arg], str]:
    def lowering(b: Builder, node: Node, self: Arg, other: Arg) -> str:
        return b.op(kind, b.tensor(self, torch.bool), b.tensor(other, torch.bool))

    return lowering


def _bitwise(kind: str) -> Callable[[Builder, Node, Arg, Arg], str]:
    def lowering(b: Builder, node: Node, self: Arg, other: Arg) -> str:
        name = kind if node.dtype == torch.bool else f"Bitwise{kind}"
        return b.op(name, b.tensor(self, node.dtype), b.tensor(other, node.dtype))

    return lowering


def _scaled(b: Builder, node: Node, other: Arg, alpha: Arg) -> str:
    value = b.tensor(other, node.dtype)
    return value if alpha == 1 else b.op("Mul", value, b.tensor(alpha, node.dtype))


def add(b: Builder, node: Node, self: Arg, other: Arg, alpha: Arg = 1) -> str:
    if node.dtype == torch.bool:
        return _logical("Or")(b, node, self, other)
    return b.op("Add", b.tensor(self, node.dtype), _scaled(b, node, other, alpha))


def sub(b: Builder, node: Node, self: Arg, other: Arg, alpha: Arg = 1) -> str:
    return b.op("Sub", b.tensor(self, node.dtype), _scaled(b, node, other, alpha))


def rsub(b: Builder, node: Node, self: Arg, other: Arg, alpha: Arg = 1) -> str:
    return b.op("Sub", b.tensor(other, node.dtype), _scaled(b, node, self, alpha))


def mul(b: Builder, node: Node, self: Arg, other: Arg) -> str:
    if node.dtype == torch.bool:
        return _logical("And")(b, node, self, other)
    return _same("Mul")(b, node, self, other)


def div(b: Builder, node: Node, self: Arg, other: Arg, rounding_mode: str | None = None) -> str:
    if rounding_mode == "floor":
        return floor_divide(b, node, self, other)
    result = _same("Div")(b, node, self, other)
    if rounding_mode is None or not node.dtype.is_floating_point:
        return result  # a division of integers rounds to zero in ONNX
    return b.op("Mul", b.op("Sign", result), b.op("Floor", b.op("Abs", result)))


def floor_divide(b: Builder, node: Node, self: Arg, other: Arg) -> str:
    if node.dtype.is_floating_point:
        return b.op("Floor", _same("Div")(b, node, self, other))
    x, y = b.tensor(self, node.dtype), b.tensor(other, node.dtype)
    return b.op("Div", b.op("Sub", x, b.op("Mod", x, y)), y)  # Mod has the sign of the divisor


def remainder(b: Builder, node: Node, self: Arg, other: Arg) -> str:
    x, y = b.tensor(self, node.dtype), b.tensor(other, node.dtype)
    if not node.dtype.is_floating_point:
        return b.op("Mod", x, y)
    return b.op("Sub", x, b.op("Mul", b.op("Floor", b.op("Div", x, y)), y))


def power(b: Builder, node: Node, self: Arg, exponent: Arg) -> str:
    x = b.tensor(self, node.dtype)
    if exponent == 2:
        return b.op("Mul", x, x)  # many times faster than Pow
    if exponent == 0.5:
        return b.op("Sqrt", x)
    return b.op("Pow", x, b.tensor(exponent, node.dtype))


def where(b: Builder, node: Node, condition: Arg, self: Arg, other: Arg) -> str:
    condition = b.tensor(condition, torch.bool)
    return b.op("Where", condition, b.tensor(self, node.dtype), b.tensor(other, node.dtype))


def masked_fill(b: Builder, node: Node, self: Arg, mask: Arg, value: Arg) -> str:
    return where(b, node, mask, value, self)


def total(b: Builder, node: Node, *terms: Arg) -> str:
    return b.op("Sum", *map(b.tensor, terms))


LOWERINGS = {
    "ort.sum": total,
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
    "aten.max.other": _same("Max"),
    "aten.min.other": _same("Min"),
    "maximum": _same("Max"),
    "minimum": _same("Min"),
    "eq": _compare("Equal"),
    "ne": _compare("Equal", negate=True),
    "lt": _compare("Less"),
    "le": _compare("LessOrEqual"),
    "gt": _compare("Greater"),
    "ge": _compare("GreaterOrEqual"),
    "logical_and": _logical("And"),
    "logical_or": _logical("Or"),
    "bitwise_and": _bitwise("And"),
    "bitwise_or": _bitwise("Or"),
    "aten.__and__.Tensor": _bitwise("And"),
    "aten.__or__.Tensor": _bitwise("Or"),
}
