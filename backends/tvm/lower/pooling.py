"""Pooling and resizing over the last one, two or three axes; an op's name says how many."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ....ir import Node
from ....ir.graph import Arg
from ...lowering import Declined, pair
from ..builder import Builder


def _rank(node: Node) -> int:
    return int(node.op.removesuffix("d")[-1])


def _window(
    b: Builder,
    node: Node,
    self: Node,
    kernel: Sequence[int],
    read: Callable[..., Any],
    reducer: Callable[..., Any],
) -> Any:
    """A reduction over windows; ``read(x, place, offsets)`` is what counts at an offset."""
    n, axes = len(kernel), [b.te_module.reduce_axis((0, size)) for size in kernel]

    def at(x: Any, *place: Any) -> Any:
        return reducer(read(x, place[:-n], place[-n:], axes), axis=axes)

    return b.compute(node.shape, at, b.tensor(self), name=node.op)


def _padded(
    b: Builder, self: Node, strides: Sequence[int], pads: Sequence[int],
    dilations: Sequence[int], outside: Any,
) -> Callable[..., Any]:  # fmt: skip
    """Reads of a window, with a value for what lies outside."""
    n, t = len(strides), b.tirx
    sizes = b.shape(self.shape[-n:])

    def read(x: Any, batch: Any, place: Any, offsets: Any) -> Any:
        source = [
            p * s - pad + o * d
            for p, s, pad, o, d in zip(place, strides, pads, offsets, dilations, strict=True)
        ]
        inside = [
            part for i, size in zip(source, sizes, strict=True) for part in (i >= 0, i < size)
        ]
        return t.if_then_else(t.all(*inside), x(*batch, *source), outside)

    return read


def max_pool(
    b: Builder,
    node: Node,
    self: Node,
    kernel_size: Arg,
    stride: Arg = (),
    padding: Arg = 0,
    dilation: Arg = 1,
    ceil_mode: bool = False,
) -> Any:
    n = _rank(node)
    strides = pair(stride if stride != () else kernel_size, n)
    floats = node.dtype.is_floating_point
    low = -math.inf if floats else torch.iinfo(node.dtype).min
    outside = b.number(low, node.dtype)
    read = _padded(b, self, strides, pair(padding, n), pair(dilation, n), outside)
    return _window(b, node, self, pair(kernel_size, n), read, b.te_module.max)


def avg_pool(
    b: Builder,
    node: Node,
    self: Node,
    kernel_size: Arg,
    stride: Arg = (),
    padding: Arg = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    n, t = _rank(node), b.tirx
    kernel, pads = pair(kernel_size, n), pair(padding, n)
    strides = pair(stride if stride != () else kernel_size, n)
    read = _padded(b, self, strides, pads, [1] * n, b.number(0, node.dtype))
    total = _window(b, node, self, kernel, read, b.te_module.sum)
    margins = pads if count_include_pad else [0] * n
    sizes = b.shape(self.shape[-n:])

    def count(place: Sequence[Any]) -> Any:
        """How many places a window has; one that sticks out beyond the padding has fewer."""
        found: Any = 1
        for p, k, s, pad, margin, size in zip(
            place, kernel, strides, pads, margins, sizes, strict=True
        ):
            start = p * s - pad
            end = t.min(start + k, size + margin)
            found = found * (end - t.max(start, b.size(-margin)))
        return found.astype(str(node.dtype).removeprefix("torch."))

    def at(x: Any, *place: Any) -> Any:
        if divisor_override is not None:
            return x(*place) / float(divisor_override)
        return x(*place) / count(place[-n:])

    return b.compute(node.shape, at, total, name="average")


def adaptive_avg_pool(b: Builder, node: Node, self: Node, output_size: Arg) -> Any:
    n = _rank(node)
    wanted, sizes = pair(output_size, n), self.shape[-n:]
    if wanted == [1] * n:
        return b.reduce("mean", b.tensor(self), range(-n, 0), keep=True)
    kernel = [s // w for s, w in zip(sizes, wanted, strict=True) if isinstance(s, int)]
    if len(kernel) != n or any(k * w != s for k, w, s in zip(kernel, wanted, sizes, strict=True)):
        raise Declined("with windows of unequal sizes")
    read = _padded(b, self, kernel, [0] * n, [1] * n, b.number(0, node.dtype))
    total = _window(b, node, self, kernel, read, b.te_module.sum)
    count = float(math.prod(kernel))
    return b.compute_like(total, lambda x: x / count, name="average")


def upsample_nearest(
    b: Builder, node: Node, input: Node, output_size: Arg = None, scale_factors: Arg = None
) -> Any:
    n, t = _rank(node), b.tirx
    before, after = b.shape(input.shape[-n:]), b.shape(node.shape[-n:])
    factors = scale_factors if isinstance(scale_factors, tuple) else None

    def at(x: Any, *place: Any) -> Any:
        source: list[Any] = []
        for axis, i in enumerate(place[-n:]):
            if factors is None:
                found = t.floordiv(i * before[axis], after[axis])
            else:
                step = b.number(1 / float(factors[axis]), torch.float32)
                found = t.floor(i.astype("float32") * step).astype("int64")
            source.append(t.min(found, before[axis] - 1))
        return x(*place[:-n], *source)

    return b.compute(node.shape, at, b.tensor(input), name="upsample")


LOWERINGS: dict[str, Callable[..., Any]] = {
    **{f"max_pool{n}d": max_pool for n in (1, 2, 3)},
    **{f"avg_pool{n}d": avg_pool for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": adaptive_avg_pool for n in (1, 2, 3)},
    **{f"upsample_nearest{n}d": upsample_nearest for n in (1, 2, 3)},
}
