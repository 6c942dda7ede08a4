"""Normalizations, and softmax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ....ir import Node
from ....ir.graph import Arg
from ..builder import Builder


def _scaled(b: Builder, shape: Any, x: Any, factor: Any, weight: Any, bias: Any) -> Any:
    """``x factor weight + bias``, each broadcast."""
    more = [part for part in (weight, bias) if part is not None]

    def function(x: Any, factor: Any, *rest: Any) -> Any:
        found, left = x * factor, list(rest)
        found = found if weight is None else found * left.pop(0)
        return found if bias is None else found + left.pop(0)

    return b.map(shape, function, x, factor, *more, name="norm")


def _centred(b: Builder, shape: Any, x: Any, axes: Sequence[int]) -> Any:
    mean = b.reduce("mean", x, axes, keep=True)
    return b.map(shape, lambda x, mean: x - mean, x, mean, name="centre")


def _inverse(b: Builder, x: Any, axes: Sequence[int], eps: float) -> Any:
    """One over the root of the mean square."""
    square = b.compute_like(x, lambda x: x * x, name="square")
    mean = b.reduce("mean", square, axes, keep=True)
    return b.compute_like(mean, lambda m: 1.0 / b.tirx.sqrt(m + eps), name="inverse")


def _optional(b: Builder, arg: Arg) -> Any:
    return None if arg is None else b.tensor(arg)


def layer_norm(
    b: Builder,
    node: Node,
    input: Arg,
    normalized_shape: tuple[int, ...],
    weight: Arg = None,
    bias: Arg = None,
    eps: float = 1e-5,
) -> Any:
    axes = range(-len(normalized_shape), 0)
    x = _centred(b, node.shape, b.tensor(input), axes)
    factors = _optional(b, weight), _optional(b, bias)
    return _scaled(b, node.shape, x, _inverse(b, x, axes, eps), *factors)


def rms_norm(
    b: Builder,
    node: Node,
    input: Arg,
    normalized_shape: tuple[int, ...],
    weight: Arg = None,
    eps: float | None = None,
) -> Any:
    x = b.tensor(input)
    epsilon = torch.finfo(node.dtype).eps if eps is None else eps
    inverse = _inverse(b, x, range(-len(normalized_shape), 0), epsilon)
    return _scaled(b, node.shape, x, inverse, _optional(b, weight), None)


def crms_norm(b: Builder, node: Node, input: Node, weight: Arg = None, eps: float = 1e-6) -> Any:
    x, t = b.tensor(input), b.tirx
    total = b.reduce("sum", x, [-1], keep=True)
    square = b.reduce("sum", b.compute_like(x, lambda x: x * x, name="square"), [-1], keep=True)
    count = float(int(input.shape[-1]) + 1)
    inverse = b.map(
        (*node.shape[:-1], 1),
        lambda s, q: 1.0 / t.sqrt((q + s * s) / count + eps),
        total,
        square,
        name="inverse",
    )
    return _scaled(b, node.shape, x, inverse, _optional(b, weight), None)


def group_norm(
    b: Builder,
    node: Node,
    input: Node,
    num_groups: int,
    weight: Arg = None,
    bias: Arg = None,
    eps: float = 1e-5,
) -> Any:
    batch, channels, *rest = node.shape
    shape = (batch, num_groups, int(channels) // num_groups, *rest)
    axes = range(2, len(shape))
    x = _centred(b, shape, b.op("reshape", b.tensor(input), b.shape(shape)), axes)
    inverse = _inverse(b, x, axes, eps)
    each = (num_groups, int(channels) // num_groups, *(1 for _ in rest))
    factors = (
        None if part is None else b.op("reshape", b.tensor(part), list(each))
        for part in (weight, bias)
    )
    return b.op("reshape", _scaled(b, shape, x, inverse, *factors), b.shape(node.shape))


def batch_norm(
    b: Builder,
    node: Node,
    input: Node,
    weight: Arg,
    bias: Arg,
    running_mean: Node,
    running_var: Node,
    training: bool = False,
    eps: float = 1e-5,
) -> Any:
    return _batch_norm(b, input, weight, bias, running_mean, running_var, eps)


def _batch_norm(
    b: Builder, input: Node, weight: Arg, bias: Arg, mean: Node, variance: Node, eps: float
) -> Any:
    def at(x: Any, mean: Any, variance: Any, *rest: Any) -> Any:
        given = len(rest) - len(input.shape)
        factors, place = list(rest[:given]), rest[given:]
        c = place[1]
        found = (x(*place) - mean(c)) / b.tirx.sqrt(variance(c) + eps)
        found = found if weight is None else found * factors.pop(0)(c)
        return found if bias is None else found + factors.pop(0)(c)

    more = [b.tensor(part) for part in (weight, bias) if part is not None]
    operands = (b.tensor(part) for part in (input, mean, variance))
    return b.compute(input.shape, at, *operands, *more, name="batch_norm")


def native_batch_norm(
    b: Builder,
    node: Node,
    input: Node,
    weight: Arg,
    bias: Arg,
    running_mean: Node,
    running_var: Node,
    eps: float = 1e-5,
) -> tuple[Any, ...]:
    """The result, and two statistics that are only for gradients."""
    return _batch_norm(b, input, weight, bias, running_mean, running_var, eps), None, None


def softmax_of(b: Builder, x: Any, axis: int) -> Any:
    return b.op("nn.softmax", x, axis)


def _softmax(kind: str) -> Callable[..., Any]:
    def lowering(
        b: Builder,
        node: Node,
        self: Arg,
        dim: int,
        dtype: torch.dtype | None = None,
        half_to_float: bool = False,
    ) -> Any:
        return b.op(kind, b.tensor(self, node.dtype), dim)

    return lowering


LOWERINGS: dict[str, Callable[..., Any]] = {
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "crms_norm": crms_norm,
    "group_norm": group_norm,
    "batch_norm": batch_norm,
    "aten._native_batch_norm_legit_no_training.default": native_batch_norm,
    "softmax": _softmax("nn.softmax"),
    "log_softmax": _softmax("nn.log_softmax"),
}
