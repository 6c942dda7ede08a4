"""Functions of one value, position by position."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

from ....ir import Node
from ....ir.graph import Arg
from ...lowering import Declined
from ..builder import Builder

_Scalar = Callable[[Any, Any], Any]  # of the module of scalar functions and a number


def _unary(function: _Scalar) -> Callable[[Builder, Node, Arg], Any]:
    """An op that is a function of numbers; integers become floats where PyTorch says so."""

    def lowering(b: Builder, node: Node, self: Arg) -> Any:
        return _of(b, node, self, lambda x: function(b.tirx, x))

    return lowering


def _of(b: Builder, node: Node, self: Arg, function: Callable[..., Any], *more: Arg) -> Any:
    operands = (b.operand(arg, node.dtype) for arg in (self, *more))
    return b.map(node.shape, function, *operands, name=node.op)


def _softplus(t: Any, x: Any) -> Any:
    """``log(1 + e^x)`` without an overflow."""
    return t.max(x, _like(t, 0, x)) + t.log(1.0 + t.exp(-t.abs(x)))


def _like(t: Any, value: float, x: Any) -> Any:
    return t.const(value, x.dtype if hasattr(x, "dtype") else x.ty.dtype)


def _limited(t: Any, x: Any, low: float, high: float) -> Any:
    return t.min(t.max(x, _like(t, low, x)), _like(t, high, x))


def gelu(b: Builder, node: Node, self: Arg, approximate: str = "none") -> Any:
    t = b.tirx
    if approximate == "none":
        return _of(b, node, self, lambda x: x * 0.5 * (1.0 + t.erf(x * math.sqrt(0.5))))
    factor = math.sqrt(2 / math.pi)
    return _of(
        b, node, self, lambda x: x * 0.5 * (1.0 + t.tanh((x + x * x * x * 0.044715) * factor))
    )


def leaky_relu(b: Builder, node: Node, self: Arg, negative_slope: float = 0.01) -> Any:
    return _of(b, node, self, lambda x: b.tirx.Select(x > 0, x, x * float(negative_slope)))


def elu(
    b: Builder, node: Node, self: Arg, alpha: float = 1, scale: float = 1, input_scale: float = 1
) -> Any:
    t = b.tirx

    def function(x: Any) -> Any:
        below = (t.exp(x * float(input_scale)) - 1.0) * float(alpha)
        return t.Select(x > 0, x, below) * float(scale)

    return _of(b, node, self, function)


def softplus(b: Builder, node: Node, self: Arg, beta: float = 1, threshold: float = 20) -> Any:
    t = b.tirx

    def function(x: Any) -> Any:
        scaled = x * float(beta)
        return t.Select(scaled > float(threshold), x, _softplus(t, scaled) / float(beta))

    return _of(b, node, self, function)


def hardtanh(b: Builder, node: Node, self: Arg, min_val: Arg = -1, max_val: Arg = 1) -> Any:
    return clamp(b, node, self, min_val, max_val)


def relu6(b: Builder, node: Node, self: Arg) -> Any:
    return clamp(b, node, self, 0, 6)


def clamp(b: Builder, node: Node, self: Arg, min: Arg = None, max: Arg = None) -> Any:
    def function(x: Any, *limits: Any) -> Any:
        rest = iter(limits)
        x = x if min is None else b.tirx.max(x, next(rest))
        return x if max is None else b.tirx.min(x, next(rest))

    return _of(b, node, self, function, *(limit for limit in (min, max) if limit is not None))


def bitwise_not(b: Builder, node: Node, self: Arg) -> Any:
    return _of(b, node, self, b.tirx.Not if node.dtype == torch.bool else operator.invert)


def logical_not(b: Builder, node: Node, self: Arg) -> Any:
    return _of(b, node, self, b.tirx.Not)


def to(b: Builder, node: Node, self: Arg, dtype: torch.dtype | None = None) -> Any:
    return b.tensor(self, node.dtype)


def _whole(function: _Scalar) -> Callable[[Builder, Node, Arg], Any]:
    """Rounding, which leaves integers as they are."""

    def lowering(b: Builder, node: Node, self: Arg) -> Any:
        if not node.dtype.is_floating_point:
            raise Declined("of integers")
        return _unary(function)(b, node, self)

    return lowering


LOWERINGS: dict[str, Callable[..., Any]] = {
    "neg": _unary(lambda t, x: -x),
    "relu": _unary(lambda t, x: t.max(x, _like(t, 0, x))),
    "abs": _unary(lambda t, x: t.abs(x)),
    "sigmoid": _unary(lambda t, x: t.sigmoid(x)),
    "silu": _unary(lambda t, x: x * t.sigmoid(x)),
    "tanh": _unary(lambda t, x: t.tanh(x)),
    "erf": _unary(lambda t, x: t.erf(x)),
    "sin": _unary(lambda t, x: t.sin(x)),
    "cos": _unary(lambda t, x: t.cos(x)),
    "exp": _unary(lambda t, x: t.exp(x)),
    "log": _unary(lambda t, x: t.log(x)),
    "sqrt": _unary(lambda t, x: t.sqrt(x)),
    "rsqrt": _unary(lambda t, x: _like(t, 1, x) / t.sqrt(x)),
    "reciprocal": _unary(lambda t, x: _like(t, 1, x) / x),
    "hardsigmoid": _unary(lambda t, x: _limited(t, x + 3.0, 0, 6) * (1 / 6)),
    "hardswish": _unary(lambda t, x: x * _limited(t, x + 3.0, 0, 6) * (1 / 6)),
    "mish": _unary(lambda t, x: x * t.tanh(_softplus(t, x))),
    "floor": _whole(lambda t, x: t.floor(x)),
    "round": _whole(lambda t, x: t.nearbyint(x)),  # half to even
    "gelu": gelu,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "softplus": softplus,
    "hardtanh": hardtanh,
    "relu6": relu6,
    "clamp": clamp,
    "logical_not": logical_not,
    "bitwise_not": bitwise_not,
    "to": to,
}
