"""Reading and writing at positions that are data."""

from __future__ import annotations

import torch

from ....ir import Node
from ....ir.graph import Arg
from ..builder import Builder, Declined, rank


def _positions(b: Builder, indices: list[Node]) -> tuple[str, int]:
    """Index tensors, broadcast, as one ``int64[..., k]``, and the rank of what they index."""
    if any(i.dtype == torch.bool for i in indices):
        if len(indices) > 1:
            raise Declined("with a mask among other indices")
        return b.op("Transpose", b.op("NonZero", b.tensor(indices[0])), perm=[1, 0]), 1
    names = [b.tensor(i, torch.int64) for i in indices]
    if any(i.shape != indices[0].shape for i in indices):
        shape = b.op("Shape", b.op("Sum", *(b.cast(name, torch.float32) for name in names)))
        names = [b.op("Expand", name, shape) for name in names]
    parts = [b.op("Unsqueeze", name, b.ints(-1)) for name in names]
    stacked = parts[0] if len(parts) == 1 else b.op("Concat", *parts, axis=-1)
    return stacked, max(map(rank, indices))


def _indexed(indices: Arg) -> list[tuple[int, Node]]:
    """The axes that are indexed, each with its index."""
    return [(axis, index) for axis, index in enumerate(indices) if index is not None]


def index(b: Builder, node: Node, self: Node, indices: Arg) -> str:
    found = _indexed(indices)
    axes, tensors = [axis for axis, _ in found], [tensor for _, tensor in found]
    if len(found) == 1 and tensors[0].dtype != torch.bool:
        return b.op("Gather", b.tensor(self), b.tensor(tensors[0], torch.int64), axis=axes[0])
    masked = rank(tensors[0]) if tensors[0].dtype == torch.bool else 1
    if masked > 1 and axes[0] > 0:
        raise Declined("with a mask of many axes behind the first")
    value = b.tensor(self)
    front = [*axes, *(axis for axis in range(rank(self)) if axis not in axes)]
    if front != sorted(front):
        value = b.op("Transpose", value, perm=front)
    positions, count = _positions(b, tensors)
    result = b.op("GatherND", value, positions)
    adjacent = axes == list(range(axes[0], axes[0] + len(axes)))
    if not adjacent or axes[0] == 0:
        return result  # the indexed axes come first
    rest = len(node.shape) - count
    order = [*range(count, count + axes[0]), *range(count), *range(count + axes[0], count + rest)]
    return b.op("Transpose", result, perm=order)


def index_put(
    b: Builder, node: Node, self: Node, indices: Arg, values: Node, accumulate: bool = False
) -> str:
    found = _indexed(indices)
    if [axis for axis, _ in found] != list(range(len(found))):
        raise Declined("behind the first axis")
    mask = found[0][1]
    if (
        mask.dtype == torch.bool
        and not accumulate
        and len(found) == 1
        and values.shape in ((), (1,))
    ):
        many = rank(self) - rank(mask)
        truth = (
            b.op("Unsqueeze", b.tensor(mask), b.ints(*range(-many, 0))) if many else b.tensor(mask)
        )
        return b.op("Where", truth, b.tensor(values, node.dtype), b.tensor(self))
    positions, _ = _positions(b, [tensor for _, tensor in found])
    shape = b.op("Shape", b.op("GatherND", b.tensor(self), positions))
    spread = b.op("Expand", b.tensor(values, node.dtype), shape)
    reduction = "add" if accumulate else "none"
    return b.op("ScatterND", b.tensor(self), positions, spread, reduction=reduction)


def index_select(b: Builder, node: Node, self: Node, dim: int, index: Arg) -> str:
    return b.op("Gather", b.tensor(self), b.tensor(index, torch.int64), axis=dim)


def gather(b: Builder, node: Node, self: Node, dim: int, index: Arg) -> str:
    return b.op("GatherElements", b.tensor(self), b.tensor(index, torch.int64), axis=dim)


def scatter(
    b: Builder, node: Node, self: Node, dim: int, index: Node, src: Arg = None, value: Arg = None
) -> str:
    where = b.tensor(index, torch.int64)
    if src is None:
        updates = b.op("Expand", b.tensor(value, node.dtype), b.op("Shape", where))
    elif src.shape == index.shape:
        updates = b.tensor(src, node.dtype)
    else:
        raise Declined("with a source larger than its index")
    return b.op("ScatterElements", b.tensor(self), where, updates, axis=dim)


def index_add(
    b: Builder, node: Node, self: Node, dim: int, index: Arg, source: Node, alpha: Arg = 1
) -> str:
    axis = dim % rank(self)
    updates = b.tensor(source, node.dtype)
    if alpha != 1:
        updates = b.op("Mul", updates, b.tensor(alpha, node.dtype))
    place = [axis_ for axis_ in range(rank(self)) if axis_ != axis]
    column = b.op("Reshape", b.tensor(index, torch.int64), b.ints(-1))
    where = b.op("Unsqueeze", column, b.ints(*place)) if place else column
    where = b.op("Expand", where, b.op("Shape", updates))
    return b.op("ScatterElements", b.tensor(self), where, updates, axis=axis, reduction="add")


def places(b: Builder, node: Node, condition: Node) -> tuple[str, ...]:
    """Where it is true: for each axis, the place along it."""
    found = b.op("NonZero", b.tensor(condition))
    parts = [
        b.op("Gather", found, b.constant(axis, torch.int64)) for axis in range(rank(condition))
    ]
    return tuple(parts)


LOWERINGS = {
    "aten.where.default": places,
    "index": index,
    "index_put": index_put,
    "index_select": index_select,
    "gather": gather,
    "scatter": scatter,
    "index_add": index_add,
}
