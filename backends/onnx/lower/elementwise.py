"""Functions of one value, position by position."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ....ir import Node
from ....ir.graph import Arg
from ..builder import MICROSOFT, Builder, Declined


def _unary(kind: str) -> Callable[[Builder, Node, Arg], str]:
    def lowering(b: Builder, node: Node, self: Arg) -> str:
        return b.op(
            kind, b.tensor(self, node.dtype)
        )  # integers become floats where PyTorch says so

    return lowering


def gelu(b: Builder, node: Node, self: Arg, approximate: str = "none") -> str:
    return b.op("Gelu", b.tensor(self), approximate=approximate)


def silu(b: Builder, node: Node, self: Arg) -> str:
    x = b.tensor(self)
    if b.dialect.runtime and node.dtype == torch.float32:  # one kernel; x * sigmoid(x) takes two
        return b.op(f"{MICROSOFT}QuickGelu", x, alpha=1.0)
    return b.op("Mul", x, b.op("Sigmoid", x))


def rsqrt(b: Builder, node: Node, self: Arg) -> str:
    return b.op("Reciprocal", b.op("Sqrt", b.tensor(self, node.dtype)))


def leaky_relu(b: Builder, node: Node, self: Arg, negative_slope: float = 0.01) -> str:
    return b.op("LeakyRelu", b.tensor(self), alpha=float(negative_slope))


def elu(
    b: Builder, node: Node, self: Arg, alpha: float = 1, scale: float = 1, input_scale: float = 1
) -> str:
    if input_scale != 1:
        raise Declined("with input_scale")
    result = b.op("Elu", b.tensor(self), alpha=float(alpha))
    return result if scale == 1 else b.op("Mul", result, b.constant(scale, node.dtype))


def softplus(b: Builder, node: Node, self: Arg, beta: float = 1, threshold: float = 20) -> str:
    # Above the threshold PyTorch gives x itself, from which log(1 + e^x) then differs by less
    # than 2e-9.
    if beta * math.exp(-threshold) > 1e-6:
        raise Declined(f"with the threshold {threshold}")
    x = b.tensor(self)
    if beta == 1:
        return b.op("Softplus", x)
    factor = b.constant(beta, node.dtype)
    return b.op("Div", b.op("Softplus", b.op("Mul", x, factor)), factor)


def hardtanh(b: Builder, node: Node, self: Arg, min_val: Arg = -1, max_val: Arg = 1) -> str:
    return clamp(b, node, self, min_val, max_val)


def relu(b: Builder, node: Node, self: Arg) -> str:
    x = b.tensor(self)  # ONNX Runtime's Relu knows few integers
    whole = not node.dtype.is_floating_point
    return b.op("Max", x, b.constant(0, node.dtype)) if whole else b.op("Relu", x)


def relu6(b: Builder, node: Node, self: Arg) -> str:
    return clamp(b, node, self, 0, 6)


def clamp(b: Builder, node: Node, self: Arg, min: Arg = None, max: Arg = None) -> str:
    x = b.tensor(self, node.dtype)
    low, high = b.tensor(min, node.dtype), b.tensor(max, node.dtype)
    if not any(isinstance(limit, Node) for limit in (min, max)):
        return b.op("Clip", x, low, high)
    x = b.op("Max", x, low) if low else x
    return b.op("Min", x, high) if high else x


def hardsigmoid(b: Builder, node: Node, self: Arg) -> str:
    return b.op("HardSigmoid", b.tensor(self), alpha=1 / 6, beta=0.5)


def bitwise_not(b: Builder, node: Node, self: Arg) -> str:
    return b.op("Not" if node.dtype == torch.bool else "BitwiseNot", b.tensor(self))


def logical_not(b: Builder, node: Node, self: Arg) -> str:
    return b.op("Not", b.tensor(self, torch.bool))


def to(b: Builder, node: Node, self: Arg, dtype: torch.dtype | None = None) -> str:
    return b.tensor(self, node.dtype)


LOWERINGS = {
    "neg": _unary("Neg"),
    "relu": relu,
    "abs": _unary("Abs"),
    "sigmoid": _unary("Sigmoid"),
    "tanh": _unary("Tanh"),
    "erf": _unary("Erf"),
    "sin": _unary("Sin"),
    "cos": _unary("Cos"),
    "exp": _unary("Exp"),
    "log": _unary("Log"),
    "sqrt": _unary("Sqrt"),
    "reciprocal": _unary("Reciprocal"),
    "hardswish": _unary("HardSwish"),
    "mish": _unary("Mish"),
    "floor": _unary("Floor"),
    "round": _unary("Round"),  # half to even in both
    "gelu": gelu,
    "silu": silu,
    "rsqrt": rsqrt,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "softplus": softplus,
    "hardtanh": hardtanh,
    "relu6": relu6,
    "clamp": clamp,
    "hardsigmoid": hardsigmoid,
    "logical_not": logical_not,
    "bitwise_not": bitwise_not,
    "to": to,
}
