"""Convolutions, and those turned around."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....ir import Node
from ....ir.graph import Arg
from ...lowering import rank, windows
from ..builder import Builder
from . import codes
from .windows import Window, channels_last


def batched(b: Builder, input: Node, spatial: int, run: Callable[[Any], Any]) -> Any:
    """Run an op that wants a batch; one image alone gets a batch of one."""
    x = b.tensor(input)
    if rank(input) == spatial + 2:
        return run(x)
    return b.op("squeeze", run(b.op("expand_dims", x, 0)), [0])


def conv(
    b: Builder,
    node: Node,
    input: Node,
    weight: Node,
    bias: Arg = None,
    stride: Arg = 1,
    padding: Arg = 0,
    dilation: Arg = 1,
    groups: int = 1,
) -> Any:
    n, window = rank(weight) - 2, Window(*windows(weight, stride, padding, dilation), groups)
    product = codes.convolution(b, input, weight, node, window)
    if product is None:
        w, sizes = _channels_last(b, weight), node.shape[-n:]
        product = batched(
            b, input, n, lambda x: window.sums(b, x, w, sizes, node.dtype, name="conv")
        )
    return by_channel(b, node, product, bias, n)


def _channels_last(b: Builder, weight: Node) -> Any:
    """A weight ``[O, C, ...]`` as ``[..., C, O]``."""
    if weight.op == "param":
        return b.parameter(weight, "channels_last", channels_last)
    return b.op("permute_dims", b.tensor(weight), [*range(2, rank(weight)), 1, 0])


def by_channel(b: Builder, node: Node, product: Any, bias: Arg, spatial: int) -> Any:
    """The bias of a convolution."""
    if bias is None:
        return product

    def at(x: Any, c: Any, *place: Any) -> Any:
        return x(*place) + c(place[-1 - spatial])

    return b.compute(node.shape, at, product, b.tensor(bias), name="bias")


def conv_transpose(
    b: Builder,
    node: Node,
    input: Node,
    weight: Node,
    bias: Arg = None,
    stride: Arg = 1,
    padding: Arg = 0,
    output_padding: Arg = 0,
    groups: int = 1,
    dilation: Arg = 1,
) -> Any:
    """``y[c, p] = sum x[k, (p + pad - d t) / s] w[k, c, t]`` over what the stride divides."""
    n, t = rank(weight) - 2, b.tirx
    strides, pads, dilations = windows(weight, stride, padding, dilation)
    kernel = [int(size) for size in weight.shape[2:]]
    wide = int(weight.shape[1])  # outputs of a group
    deep = int(weight.shape[0]) // groups  # its inputs
    te, sizes = b.te_module, b.shape(input.shape[-n:])

    def run(x: Any, w: Any) -> Any:
        axes = [te.reduce_axis((0, size)) for size in (deep, *kernel)]

        def at(*place: Any) -> Any:
            c, where = place[1], place[2:]
            k = t.floordiv(c, wide) * deep + axes[0]
            far = [p + pads[i] - axes[1 + i] * dilations[i] for i, p in enumerate(where)]
            source = [t.floordiv(p, s) for p, s in zip(far, strides, strict=True)]
            hits = [
                part
                for p, q, s, size in zip(far, source, strides, sizes, strict=True)
                for part in (p >= 0, q < size, t.floormod(p, s) == 0)
            ]
            product = x(place[0], k, *source) * w(k, t.floormod(c, wide), *axes[1:])
            zero = b.number(0, node.dtype)
            return te.sum(t.if_then_else(t.all(*hits), product, zero), axis=axes)

        batch = x.shape[0]
        return te.compute([batch, *b.shape(node.shape[-1 - n :])], at, name="conv_transpose")

    product = batched(b, input, n, lambda x: b.te(run, x, b.tensor(weight), name="conv_transpose"))
    return by_channel(b, node, product, bias, n)


LOWERINGS: dict[str, Callable[..., Any]] = {
    **{f"conv{n}d": conv for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": conv_transpose for n in (1, 2, 3)},
}
