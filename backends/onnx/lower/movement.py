"""Positions change, values do not."""

from __future__ import annotations

import torch

from ....ir import Node, ScalarType
from ....ir.graph import Arg
from ..builder import INT64_MAX, Builder, Declined, rank


def _same(b: Builder, node: Node, self: Arg) -> str:
    return b.tensor(self)


def reshape_to(b: Builder, value: str, before: tuple[Arg, ...], node: Node, shape: Arg) -> str:
    """Reshape by the types: a 0 keeps a size, one -1 is found; else by the sizes given."""
    after = node.shape
    spec = [
        size if isinstance(size, int) else 0 if before[i : i + 1] == (size,) else -1
        for i, size in enumerate(after)
    ]
    zeros = any(size == 0 for size in (*before, *after))
    if spec.count(-1) <= 1 and not zeros:
        return value if tuple(before) == after else b.op("Reshape", value, b.ints(*spec))
    sizes = tuple(s if isinstance(s, int) else given for s, given in zip(after, shape, strict=True))
    return b.op("Reshape", value, b.numbers(sizes), allowzero=int(zeros))


def reshape(b: Builder, node: Node, self: Node, shape: Arg) -> str:
    return reshape_to(b, b.tensor(self), self.shape, node, shape)


def view(b: Builder, node: Node, self: Node, size: Arg) -> str:
    return reshape(b, node, self, size)


def permute(b: Builder, node: Node, self: Node, dims: tuple[int, ...]) -> str:
    return b.op("Transpose", b.tensor(self), perm=[dim % rank(self) for dim in dims])


def transpose(b: Builder, node: Node, self: Node, dim0: int, dim1: int) -> str:
    if rank(self) < 2:
        return b.tensor(self)
    order = list(range(rank(self)))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return b.op("Transpose", b.tensor(self), perm=order)


def matrix_transpose(b: Builder, node: Node, self: Node) -> str:
    return transpose(b, node, self, 0, -1)


def unfold(b: Builder, node: Node, self: Node, dimension: int, size: int, step: int) -> str:
    """Windows along one axis, each a row at the end."""
    axis = dimension % rank(self)
    length = self.shape[axis]
    if not isinstance(length, int):
        raise Declined("along an axis of symbolic size")
    places = torch.arange(length).unfold(0, size, step)
    windows = b.op("Gather", b.tensor(self), b.constant(places, torch.int64), axis=axis)
    order = [i for i in range(rank(self) + 1) if i != axis + 1]
    return b.op("Transpose", windows, perm=[*order, axis + 1])


def unsqueeze(b: Builder, node: Node, self: Node, dim: int) -> str:
    return b.op("Unsqueeze", b.tensor(self), b.ints(dim % (rank(self) + 1)))


def squeeze(b: Builder, node: Node, self: Node, dim: Arg = None) -> str:
    ndim = rank(self)
    given = range(ndim) if dim is None else dim if isinstance(dim, tuple) else (dim,)
    axes = sorted({d % ndim for d in given if ndim and self.shape[d] == 1})
    return b.op("Squeeze", b.tensor(self), b.ints(*axes)) if axes else b.tensor(self)


def expand(b: Builder, node: Node, self: Node, size: Arg) -> str:
    # A 1 of ONNX's Expand keeps a size as a -1 of PyTorch's does.
    before = (None,) * (len(node.shape) - rank(self)) + self.shape
    known = tuple(
        1 if size_before == size_after else size_after if isinstance(size_after, int) else given
        for size_before, size_after, given in zip(before, node.shape, size, strict=True)
    )
    if rank(self) == len(known) and all(s == 1 for s in known):
        return b.tensor(self)
    return b.op("Expand", b.tensor(self), b.numbers(known))


def slice_(
    b: Builder,
    node: Node,
    self: Node,
    dim: int = 0,
    start: Arg = None,
    end: Arg = None,
    step: Arg = 1,
) -> str:
    first = 0 if start is None else start
    last = INT64_MAX if end is None else end
    if self.shape == node.shape and first == 0 and step == 1 and not isinstance(end, Node):
        return b.tensor(self)
    bounds = b.number(first), b.number(last), b.ints(dim % rank(self)), b.number(step)
    return b.op("Slice", b.tensor(self), *bounds)


def select(b: Builder, node: Node, self: Node, dim: int, index: Arg) -> str:
    scalar = (
        b.op("Squeeze", b.number(index)) if isinstance(index, Node) else b.constant(index, _I64)
    )
    return b.op("Gather", b.tensor(self), scalar, axis=dim % rank(self))


def _whole(tensors: Arg) -> list[Node]:
    """The parts of a concatenation but for the empty vectors that PyTorch lets pass."""
    return [part for part in tensors if part.shape != (0,)] or list(tensors[:1])


def cat(b: Builder, node: Node, tensors: Arg, dim: int = 0) -> str:
    parts = [b.tensor(part, node.dtype) for part in _whole(tensors)]
    return parts[0] if len(parts) == 1 else b.op("Concat", *parts, axis=dim % len(node.shape))


def stack(b: Builder, node: Node, tensors: Arg, dim: int = 0) -> str:
    axis = dim % len(node.shape)
    parts = [b.op("Unsqueeze", b.tensor(part, node.dtype), b.ints(axis)) for part in tensors]
    return b.op("Concat", *parts, axis=axis)


def flip(b: Builder, node: Node, self: Node, dims: tuple[int, ...]) -> str:
    axes = [dim % rank(self) for dim in dims]
    if not axes:
        return b.tensor(self)
    starts, ends, steps = (b.ints(*[v] * len(axes)) for v in (-1, -INT64_MAX, -1))
    return b.op("Slice", b.tensor(self), starts, ends, b.ints(*axes), steps)


def roll(b: Builder, node: Node, self: Node, shifts: Arg, dims: Arg = ()) -> str:
    many = shifts if isinstance(shifts, tuple) else (shifts,)
    axes = dims if isinstance(dims, tuple) else (dims,)
    if not axes:
        flat = b.op("Reshape", b.tensor(self), b.ints(-1))
        return b.op("Reshape", _roll(b, flat, many[0], 0, None), b.op("Shape", b.tensor(self)))
    value = b.tensor(self)
    for shift, dim in zip(many, axes, strict=True):
        value = _roll(b, value, shift, dim % rank(self), self.shape[dim])
    return value


def _roll(b: Builder, value: str, shift: Arg, axis: int, size: int | str | None) -> str:
    if isinstance(shift, int) and isinstance(size, int):
        cut = b.ints(-(shift % size) if size else 0)
    else:
        cut = b.op("Neg", b.op("Mod", b.number(shift), b.size(value, axis)))
    zero, end, where = b.ints(0), b.ints(INT64_MAX), b.ints(axis)
    # By nothing, the tail is everything and the head is empty, which is right as well.
    tail, head = b.op("Slice", value, cut, end, where), b.op("Slice", value, zero, cut, where)
    return b.op("Concat", tail, head, axis=axis)


def repeat(b: Builder, node: Node, self: Node, repeats: tuple[Arg, ...]) -> str:
    value, more = b.tensor(self), len(repeats) - rank(self)
    if more:
        value = b.op("Unsqueeze", value, b.ints(*range(more)))
    return b.op("Tile", value, b.numbers(repeats)) if repeats else value


def repeat_interleave(
    b: Builder,
    node: Node,
    self: Node,
    repeats: Arg,
    dim: int | None = None,
    output_size: Arg = None,
) -> str:
    if isinstance(repeats, Node) and not isinstance(repeats.type, ScalarType):
        raise Declined("with a tensor of repeats")
    value = b.tensor(self)
    if dim is None:
        value, axis = b.op("Reshape", value, b.ints(-1)), 0
    else:
        axis = dim % rank(self)
    count = b.number(repeats)
    total = b.op("Squeeze", b.op("Mul", b.size(value, axis), count))
    every = b.op("Range", b.constant(0, _I64), total, b.constant(1, _I64))
    return b.op("Gather", value, b.op("Div", every, count), axis=axis)


def pixel_shuffle(b: Builder, node: Node, self: Node, upscale_factor: int) -> str:
    if rank(self) != 4:
        raise Declined("of one image")
    return b.op("DepthToSpace", b.tensor(self), blocksize=upscale_factor, mode="CRD")


def pixel_unshuffle(b: Builder, node: Node, self: Node, downscale_factor: int) -> str:
    channels, block = self.shape[-3], downscale_factor**2
    if rank(self) != 4 or not isinstance(channels, int):
        raise Declined("of one image")
    # SpaceToDepth puts the place in the block first, PyTorch the channel.
    order = [place * channels + c for c in range(channels) for place in range(block)]
    deep = b.op("SpaceToDepth", b.tensor(self), blocksize=downscale_factor)
    return b.op("Gather", deep, b.ints(*order), axis=1)


def constant_pad_nd(
    b: Builder, node: Node, self: Node, pad: tuple[Arg, ...], value: Arg = 0
) -> str:
    # The last axis comes first, as (before, after). All axes are named: where ONNX Runtime moves a
    # Transpose over a Pad of some axes, it takes their pads for those of all.
    if value == 0 and any(user.op.startswith("max_pool") for user in node.users):
        # ONNX Runtime lets a MaxPool do the work of a Pad of zeros, as if it padded with them; it
        # does not know minus zero.
        value = -0.0
    rest = (0,) * (rank(self) - len(pad) // 2)
    pads = b.numbers((*rest, *pad[-2::-2], *rest, *pad[::-2]))
    return b.op("Pad", b.tensor(self), pads, b.tensor(value, node.dtype))


def split(b: Builder, node: Node, self: Node, split_size: Arg, dim: int = 0) -> tuple[str, ...]:
    """Into parts of these sizes, or of one size."""
    assert isinstance(node.type, tuple)
    count, axis = len(node.type), dim % rank(self)
    if count == 1:
        return (b.tensor(self),)
    given = split_size if isinstance(split_size, tuple) else None
    if given is None:
        sizes = [part.shape[axis] for part in node.type]  # type: ignore[union-attr]
        if not all(isinstance(size, int) for size in sizes):
            raise Declined("of a symbolic size")
        given = tuple(sizes)
    return b.ops("Split", b.tensor(self), b.numbers(given), count=count, axis=axis)


def split_with_sizes(
    b: Builder, node: Node, self: Node, split_sizes: Arg, dim: int = 0
) -> tuple[str, ...]:
    return split(b, node, self, split_sizes, dim)


def chunk(b: Builder, node: Node, self: Node, chunks: int, dim: int = 0) -> tuple[str, ...]:
    return split(b, node, self, None, dim)


def unbind(b: Builder, node: Node, self: Node, dim: int = 0) -> tuple[str, ...]:
    assert isinstance(node.type, tuple)
    axis = dim % rank(self)
    value = b.tensor(self)
    return tuple(
        b.op("Gather", value, b.constant(i, _I64), axis=axis) for i in range(len(node.type))
    )


_I64 = torch.int64


def flatten(b: Builder, node: Node, self: Node, start_dim: int = 0, end_dim: int = -1) -> str:
    """Merge the axes from one to another."""
    axes = max(rank(self), 1)
    if end_dim % axes != axes - 1:
        raise Declined("of axes in the middle")
    return b.op("Reshape", b.tensor(self), b.ints(*[0] * (start_dim % axes), -1))


def split_heads(b: Builder, node: Node, self: Node, *, heads: int) -> str:
    """``[B, S, H*D] -> [B, H, S, D]``"""
    rows = b.op("Reshape", b.tensor(self), b.ints(0, 0, heads, -1))
    return b.op("Transpose", rows, perm=[0, 2, 1, 3])


def merge_heads(b: Builder, node: Node, self: Node) -> str:
    """``[B, H, S, D] -> [B, S, H*D]``"""
    rows = b.op("Transpose", b.tensor(self), perm=[0, 2, 1, 3])
    return b.op("Reshape", rows, b.ints(0, 0, -1))


LOWERINGS = {
    "aten.flatten.using_ints": flatten,
    "ort.split_heads": split_heads,
    "ort.merge_heads": merge_heads,
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
}
