"""What emitters share that spell a graph op by op, in a table of one function an op.

A lowering is called with the emitter's builder, the node, and the op's operands and attributes
under their PyTorch names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..ir import Node, ScalarType, TensorType
from ..ir import ops as table
from ..ir.graph import Arg

# What PyTorch's schemas have for gradients and for devices; without effect on values.
_WITHOUT_EFFECT = {
    "dtype",  # the node's own says it
    "cudnn_enable", "cudnn_enabled", "implicit", "memory_format", "momentum", "non_blocking",
    "padding_idx", "scale_grad_by_freq", "sparse", "sparse_grad",
}  # fmt: skip


class Declined(Exception):
    """A lowering does not cover this form of its op; the text says which."""


def lowered(lowerings: Mapping[str, Callable[..., Any]], builder: Any, node: Node) -> Any:
    """What the lowering of a node's op gives; raises ``Declined``."""
    lowering = lowerings.get(node.op)
    if lowering is None:
        raise Declined("")
    given = {**table.get(node.op).bind(node.args), **node.attrs}
    known = inspect.signature(lowering).parameters
    if extra := given.keys() - known.keys() - _WITHOUT_EFFECT:
        raise Declined(f"with {', '.join(sorted(extra))}")
    return lowering(builder, node, **{key: value for key, value in given.items() if key in known})


def pair(value: Arg, count: int = 2) -> list[int]:
    """Integers given as one for all or one each."""
    if isinstance(value, int):
        return [value] * count
    if any(not isinstance(part, int) for part in value):
        raise Declined("a symbolic kernel attribute")
    many = [int(part) for part in value]
    return many * count if len(many) == 1 else many


def rank(node: Node) -> int:
    return len(node.shape)


def axis_of(dim: int, ndim: int) -> int:
    """A dimension counted from the front."""
    return dim % ndim if ndim else 0


def promoted(*args: Arg) -> torch.dtype:
    """The dtype in which PyTorch combines these operands."""

    def sample(arg: Arg) -> object:
        if not isinstance(arg, Node):
            return arg
        if isinstance(arg.type, TensorType):  # rank zero counts for less
            return torch.empty([1] * bool(arg.shape), dtype=arg.dtype)
        assert isinstance(arg.type, ScalarType)
        return {"int": 1, "float": 1.0, "bool": True}[arg.type.kind]

    first, *rest = map(sample, args)
    if not rest:
        return torch.result_type(first, first)  # type: ignore[arg-type]
    return torch.result_type(first, rest[0])  # type: ignore[arg-type]


def windows(
    weight: Node, stride: Arg, padding: Arg, dilation: Arg
) -> tuple[list[int], list[int], list[int]]:
    """Strides, zeros before and then after each axis, and dilations of a convolution.

    Padding may be a word, or be given for both sides.
    """
    count = rank(weight) - 2
    dilations = pair(dilation, count)
    if isinstance(padding, str):
        spread = [d * (int(k) - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
        spread = [0] * count if padding == "valid" else spread
        pads = [s // 2 for s in spread] + [s - s // 2 for s in spread]
    elif isinstance(padding, tuple) and len(padding) == 2 * count:
        pads = list(padding)
    else:
        pads = pair(padding, count) * 2
    return pair(stride, count), pads, dilations
