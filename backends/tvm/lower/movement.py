"""Positions change, values do not."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

from ....ir import Node, ScalarType, TensorType
from ....ir.graph import Arg
from ...lowering import Declined, axis_of, rank
from ..builder import Builder


def _same(b: Builder, node: Node, self: Arg) -> Any:
    return b.tensor(self)


def reshape(b: Builder, node: Node, self: Node, shape: Arg = None) -> Any:
    """To the sizes that the type says, however they were asked for."""
    return b.op("reshape", b.tensor(self), b.shape(node.shape))


def view(b: Builder, node: Node, self: Node, size: Arg = None) -> Any:
    return reshape(b, node, self)


def flatten(b: Builder, node: Node, self: Node, start_dim: int = 0, end_dim: int = -1) -> Any:
    return reshape(b, node, self)


def unsqueeze(b: Builder, node: Node, self: Node, dim: int) -> Any:
    return b.op("expand_dims", b.tensor(self), dim % (rank(self) + 1))


def squeeze(b: Builder, node: Node, self: Node, dim: Arg = None) -> Any:
    ndim = rank(self)
    given = range(ndim) if dim is None else dim if isinstance(dim, tuple) else (dim,)
    axes = sorted({d % ndim for d in given if ndim and self.shape[d] == 1})
    return b.op("squeeze", b.tensor(self), axes) if axes else b.tensor(self)


def permute(b: Builder, node: Node, self: Node, dims: tuple[int, ...]) -> Any:
    return b.op("permute_dims", b.tensor(self), [dim % rank(self) for dim in dims])


def transpose(b: Builder, node: Node, self: Node, dim0: int, dim1: int) -> Any:
    if rank(self) < 2:
        return b.tensor(self)
    order = list(range(rank(self)))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return b.op("permute_dims", b.tensor(self), order)


def matrix_transpose(b: Builder, node: Node, self: Node) -> Any:
    return transpose(b, node, self, 0, -1)


def _moved(
    b: Builder,
    node: Node,
    self: Node,
    source: Callable[..., Sequence[Any]],
) -> Any:
    """The positions of the result read from others: ``y[i, ...] = x[source(i, ...)]``."""
    value, name = b.tensor(self), node.op
    return b.compute(node.shape, lambda x, *place: x(*source(*place)), value, name=name)


def _at(place: Sequence[Any], axis: int, index: Any) -> list[Any]:
    """A position with another index along one axis."""
    return [*place[:axis], index, *place[axis + 1 :]]


def expand(b: Builder, node: Node, self: Node, size: Arg) -> Any:
    if self.shape == node.shape:
        return b.tensor(self)
    return b.map(node.shape, lambda x: x, b.tensor(self), name="expand")


def slice_(
    b: Builder,
    node: Node,
    self: Node,
    dim: int = 0,
    start: Arg = None,
    end: Arg = None,
    step: Arg = 1,
) -> Any:
    if not isinstance(step, int):
        raise Declined("by a symbolic step")
    axis = dim % rank(self)
    if isinstance(start, int):
        if start == 0 and step == 1 and self.shape == node.shape:
            return b.tensor(self)
        first: Any = b.size(self.shape[axis]) + start if start < 0 else b.size(start)
        if start < 0:
            first = b.tirx.max(first, b.size(0))
    elif start is None:
        first = b.size(0)
    else:
        first, length = b.scalar(start), b.size(self.shape[axis])
        first = b.tirx.Select(first < 0, first + length, first)
        first = b.tirx.max(b.tirx.min(first, length), b.size(0))
    return _moved(b, node, self, lambda *place: _at(place, axis, first + place[axis] * step))


def _index(b: Builder, index: Arg, size: Any) -> Any:
    """An index counted from the front."""
    number = b.scalar(index)
    if isinstance(index, int):
        return b.size(size) + index if index < 0 else number
    return b.tirx.Select(number < 0, number + b.size(size), number)


def select(b: Builder, node: Node, self: Node, dim: int, index: Arg) -> Any:
    axis = dim % rank(self)
    at = _index(b, index, self.shape[axis])
    return _moved(b, node, self, lambda *place: [*place[:axis], at, *place[axis:]])


def cat(b: Builder, node: Node, tensors: Arg, dim: int = 0) -> Any:
    # PyTorch lets empty vectors pass.
    whole = [part for part in tensors if part.shape != (0,)] or list(tensors[:1])
    parts = [b.tensor(part, node.dtype) for part in whole]
    return parts[0] if len(parts) == 1 else b.op("concat", parts, dim % len(node.shape))


def stack(b: Builder, node: Node, tensors: Arg, dim: int = 0) -> Any:
    axis = dim % len(node.shape)
    parts = [b.op("expand_dims", b.tensor(part, node.dtype), axis) for part in tensors]
    return parts[0] if len(parts) == 1 else b.op("concat", parts, axis)


def flip(b: Builder, node: Node, self: Node, dims: tuple[int, ...]) -> Any:
    axes = {dim % rank(self) for dim in dims}
    sizes = b.shape(self.shape)

    def source(*place: Any) -> list[Any]:
        return [sizes[a] - 1 - i if a in axes else i for a, i in enumerate(place)]

    return _moved(b, node, self, source)


def roll(b: Builder, node: Node, self: Node, shifts: Arg, dims: Arg = ()) -> Any:
    many = shifts if isinstance(shifts, tuple) else (shifts,)
    axes = dims if isinstance(dims, tuple) else (dims,)
    if not axes:
        return _roll_flat(b, node, self, b.scalar(many[0]))
    by = {axis % rank(self): b.scalar(shift) for shift, axis in zip(many, axes, strict=True)}
    sizes = b.shape(self.shape)

    def source(*place: Any) -> list[Any]:
        return [b.tirx.floormod(i - by[a], sizes[a]) if a in by else i for a, i in enumerate(place)]

    return _moved(b, node, self, source)


def _roll_flat(b: Builder, node: Node, self: Node, by: Any) -> Any:
    """All places in a row."""
    sizes = b.shape(self.shape)

    def source(*place: Any) -> list[Any]:
        row: Any = b.size(0)
        for i, size in zip(place, sizes, strict=True):
            row = row * size + i
        row = b.tirx.floormod(row - by, functools.reduce(operator.mul, sizes))
        found: list[Any] = []
        for size in reversed(sizes):
            found.insert(0, b.tirx.floormod(row, size))
            row = b.tirx.floordiv(row, size)
        return found

    return _moved(b, node, self, source)


def repeat(b: Builder, node: Node, self: Node, repeats: tuple[Arg, ...]) -> Any:
    more, sizes = len(repeats) - rank(self), b.shape(self.shape)

    def source(*place: Any) -> list[Any]:
        own = zip(place[more:], sizes, strict=True)
        return [b.tirx.floormod(i, size) for i, size in own]

    return _moved(b, node, self, source)


def repeat_interleave(
    b: Builder,
    node: Node,
    self: Node,
    repeats: Arg,
    dim: int | None = None,
    output_size: Arg = None,
) -> Any:
    if isinstance(repeats, Node) and not isinstance(repeats.type, ScalarType):
        raise Declined("with a tensor of repeats")
    count = b.scalar(repeats)
    value, axis = b.tensor(self), 0 if dim is None else axis_of(dim, rank(self))
    if dim is None:
        value = b.op("reshape", value, [-1])

    def at(x: Any, *place: Any) -> Any:
        return x(*_at(place, axis, b.tirx.floordiv(place[axis], count)))

    return b.compute(node.shape, at, value, name="repeat_interleave")


def unfold(b: Builder, node: Node, self: Node, dimension: int, size: int, step: int) -> Any:
    """Windows along one axis, each a row at the end."""
    axis = dimension % rank(self)

    def source(*place: Any) -> list[Any]:
        return _at(place[:-1], axis, place[axis] * step + place[-1])

    return _moved(b, node, self, source)


def pixel_shuffle(b: Builder, node: Node, self: Node, upscale_factor: int) -> Any:
    r, t = upscale_factor, b.tirx

    def source(*place: Any) -> list[Any]:
        *batch, c, i, j = place
        within = t.floormod(i, r) * r + t.floormod(j, r)
        return [*batch, c * (r * r) + within, t.floordiv(i, r), t.floordiv(j, r)]

    return _moved(b, node, self, source)


def pixel_unshuffle(b: Builder, node: Node, self: Node, downscale_factor: int) -> Any:
    r, t = downscale_factor, b.tirx

    def source(*place: Any) -> list[Any]:
        *batch, c, i, j = place
        within = t.floormod(c, r * r)
        row, column = t.floordiv(within, r), t.floormod(within, r)
        return [*batch, t.floordiv(c, r * r), i * r + row, j * r + column]

    return _moved(b, node, self, source)


def constant_pad_nd(
    b: Builder, node: Node, self: Node, pad: tuple[Arg, ...], value: Arg = 0
) -> Any:
    if any(isinstance(part, Node) for part in pad):
        raise Declined("by symbolic sizes")
    # The last axis comes first, as (before, after); a size below zero cuts.
    before = [0] * (rank(self) - len(pad) // 2) + [int(part) for part in pad[-2::-2]]
    sizes, t = b.shape(self.shape), b.tirx
    fill = b.scalar(value, node.dtype)

    def at(x: Any, *place: Any) -> Any:
        source = [i - first for i, first in zip(place, before, strict=True)]
        inside = [
            part
            for i, size, width, whole in zip(source, sizes, node.shape, self.shape, strict=True)
            for part in ((i >= 0, i < size) if width != whole else ())
        ]
        return t.if_then_else(t.all(*inside), x(*source), fill) if inside else x(*source)

    return b.compute(node.shape, at, b.tensor(self), name="pad")


def _parts(b: Builder, node: Node, self: Node, dim: int, starts: Sequence[Any]) -> tuple[Any, ...]:
    """Parts of a value that begin at these places of an axis."""
    assert isinstance(node.type, tuple)
    axis = dim % rank(self)

    def part(type_: TensorType, start: Any) -> Any:
        return b.compute(
            type_.shape,
            lambda x, *place: x(*_at(place, axis, start + place[axis])),
            b.tensor(self),
            name="part",
        )

    pairs = zip(node.type, starts, strict=True)
    return tuple(part(type_, start) for type_, start in pairs if isinstance(type_, TensorType))


def split(b: Builder, node: Node, self: Node, split_size: Arg = None, dim: int = 0) -> Any:
    """Into parts of the sizes that their types say."""
    assert isinstance(node.type, tuple)
    widths = [b.size(p.shape[dim]) for p in node.type if isinstance(p, TensorType)]
    starts = list(itertools.accumulate(widths, initial=b.size(0)))[:-1]
    return _parts(b, node, self, dim, starts)


def split_with_sizes(b: Builder, node: Node, self: Node, split_sizes: Arg, dim: int = 0) -> Any:
    return split(b, node, self, None, dim)


def chunk(b: Builder, node: Node, self: Node, chunks: int, dim: int = 0) -> Any:
    return split(b, node, self, None, dim)


def unbind(b: Builder, node: Node, self: Node, dim: int = 0) -> tuple[Any, ...]:
    assert isinstance(node.type, tuple)
    axis = dim % rank(self)

    def part(type_: TensorType, index: int) -> Any:
        return b.compute(
            type_.shape,
            lambda x, *place: x(*place[:axis], index, *place[axis:]),
            b.tensor(self),
            name="part",
        )

    types = [type_ for type_ in node.type if isinstance(type_, TensorType)]
    return tuple(part(type_, i) for i, type_ in enumerate(types))


def triangle(upper: bool) -> Callable[..., Any]:
    """The part of matrices on one side of a diagonal."""

    def lowering(b: Builder, node: Node, self: Arg, diagonal: Arg = 0) -> Any:
        shift, t = b.scalar(diagonal), b.tirx
        zero = b.number(0, node.dtype)

        def at(x: Any, *place: Any) -> Any:
            offset = place[-1].astype("int64") - place[-2].astype("int64")
            return t.Select(offset >= shift if upper else offset <= shift, x(*place), zero)

        return b.compute(node.shape, at, b.tensor(self), name=node.op)

    return lowering


LOWERINGS: dict[str, Callable[..., Any]] = {
    "aten.flatten.using_ints": flatten,
    "clone": _same,
    "contiguous": _same,
    "aten.alias.default": _same,
    "aten.detach.default": _same,
    "aten.lift_fresh_copy.default": _same,
    "reshape": reshape,
    "aten.view.default": view,
    "aten._unsafe_view.default": view,
    "permute": permute,
    "transpose": transpose,
    "aten.t.default": matrix_transpose,
    "unfold": unfold,
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    "expand": expand,
    "slice": slice_,
    "select": select,
    "cat": cat,
    "stack": stack,
    "flip": flip,
    "roll": roll,
    "repeat": repeat,
    "repeat_interleave": repeat_interleave,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "constant_pad_nd": constant_pad_nd,
    "aten.split.Tensor": split,
    "aten.split_with_sizes.default": split_with_sizes,
    "aten.chunk.default": chunk,
    "aten.unbind.int": unbind,
    "tril": triangle(upper=False),
    "triu": triangle(upper=True),
}
