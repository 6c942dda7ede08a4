"""Normalizations, and softmax."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ....ir import Node, TensorType
from ....ir.graph import Arg
from ..builder import Builder


def _filled(b: Builder, value: float, shape: Arg, dtype: torch.dtype) -> str:
    return b.constant(torch.full([int(size) for size in shape], value), dtype)


def layer_norm(
    b: Builder,
    node: Node,
    input: Arg,
    normalized_shape: tuple[int, ...],
    weight: Arg = None,
    bias: Arg = None,
    eps: float = 1e-5,
) -> str:
    scale = b.tensor(weight) or _filled(b, 1.0, normalized_shape, node.dtype)
    axis = -len(normalized_shape)
    return b.op(
        "LayerNormalization", b.tensor(input), scale, b.tensor(bias), axis=axis, epsilon=eps
    )


def rms_norm(
    b: Builder,
    node: Node,
    input: Arg,
    normalized_shape: tuple[int, ...],
    weight: Arg = None,
    eps: float | None = None,
) -> str:
    scale = b.tensor(weight) or _filled(b, 1.0, normalized_shape, node.dtype)
    epsilon = torch.finfo(node.dtype).eps if eps is None else eps
    axis = -len(normalized_shape)
    return b.op("RMSNormalization", b.tensor(input), scale, axis=axis, epsilon=epsilon)


def crms_norm(b: Builder, node: Node, input: Node, weight: Arg = None, eps: float = 1e-6) -> str:
    x, last = b.tensor(input), b.ints(-1)
    total = b.op("ReduceSum", x, last)
    square = b.op("Add", b.op("ReduceSumSquare", x, last), b.op("Mul", total, total))
    count = b.constant(int(input.shape[-1]) + 1, node.dtype)
    mean = b.op("Add", b.op("Div", square, count), b.constant(eps, node.dtype))
    normed = b.op("Mul", x, b.op("Reciprocal", b.op("Sqrt", mean)))
    return normed if weight is None else b.op("Mul", normed, b.tensor(weight))


def group_norm(
    b: Builder,
    node: Node,
    input: Node,
    num_groups: int,
    weight: Arg = None,
    bias: Arg = None,
    eps: float = 1e-5,
) -> str:
    channels = (input.shape[1],)
    scale = b.tensor(weight) or _filled(b, 1.0, channels, node.dtype)
    shift = b.tensor(bias) or _filled(b, 0.0, channels, node.dtype)
    return b.op(
        "GroupNormalization", b.tensor(input), scale, shift, num_groups=num_groups, epsilon=eps
    )


def batch_norm(
    b: Builder,
    node: Node,
    input: Arg,
    weight: Arg,
    bias: Arg,
    running_mean: Node,
    running_var: Node,
    training: bool = False,
    eps: float = 1e-5,
) -> str:
    scale = b.tensor(weight) or _filled(b, 1.0, running_mean.shape, node.dtype)
    shift = b.tensor(bias) or _filled(b, 0.0, running_mean.shape, node.dtype)
    mean, variance = b.tensor(running_mean), b.tensor(running_var)
    return b.op("BatchNormalization", b.tensor(input), scale, shift, mean, variance, epsilon=eps)


def native_batch_norm(
    b: Builder,
    node: Node,
    input: Node,
    weight: Arg,
    bias: Arg,
    running_mean: Node,
    running_var: Node,
    eps: float = 1e-5,
) -> tuple[str, ...]:
    """The result, and two statistics that are only for gradients."""
    assert isinstance(node.type, tuple) and isinstance(node.type[0], TensorType)
    value = Node(node.name, node.op, (), {}, node.type[0])
    result = batch_norm(b, value, input, weight, bias, running_mean, running_var, eps=eps)
    return result, "", ""


def _softmax(kind: str) -> Callable[..., str]:
    def lowering(
        b: Builder,
        node: Node,
        self: Arg,
        dim: int,
        dtype: torch.dtype | None = None,
        half_to_float: bool = False,
    ) -> str:
        return b.op(kind, b.tensor(self, node.dtype), axis=dim)

    return lowering


LOWERINGS = {
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "crms_norm": crms_norm,
    "group_norm": group_norm,
    "batch_norm": batch_norm,
    "aten._native_batch_norm_legit_no_training.default": native_batch_norm,
    "softmax": _softmax("Softmax"),
    "log_softmax": _softmax("LogSoftmax"),
}
