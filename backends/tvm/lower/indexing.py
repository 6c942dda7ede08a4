"""Reading and writing at positions that are data."""

from __future__ import annotations

from typing import Any

import torch

from ....ir import Node
from ....ir.graph import Arg
from ...lowering import Declined, rank
from ..builder import Builder


def _indexed(indices: Arg) -> list[tuple[int, Node]]:
    """The axes that are indexed, each with its index."""
    return [(axis, index) for axis, index in enumerate(indices) if index is not None]


def _front(b: Builder, place: Any, size: Any) -> Any:
    """A position counted from the front."""
    return b.tirx.Select(place < 0, place + size, place)


def index(b: Builder, node: Node, self: Node, indices: Arg) -> Any:
    return _looked_up(b, node, self, _indexed(indices))


def _looked_up(b: Builder, node: Node, self: Node, found: list[tuple[int, Node]]) -> Any:
    if any(i.dtype == torch.bool for _, i in found):
        raise Declined("by a mask")
    axes = [axis for axis, _ in found]
    wide = max(rank(i) for _, i in found)
    adjacent = axes == list(range(axes[0], axes[0] + len(axes)))
    first = axes[0] if adjacent else 0  # where the axes of the indices come in the result
    sizes = b.shape(self.shape)

    def at(x: Any, *rest: Any) -> Any:
        tensors, place = rest[: len(axes)], rest[len(axes) :]
        where = place[first : first + wide]
        others = iter([*place[:first], *place[first + wide :]])
        chosen = {
            axis: _front(b, b.element(tensor, where), sizes[axis])
            for axis, tensor in zip(axes, tensors, strict=True)
        }
        return x(*(chosen[a] if a in chosen else next(others) for a in range(rank(self))))

    operands = (b.tensor(tensor, torch.int64) for _, tensor in found)
    return b.compute(node.shape, at, b.tensor(self), *operands, name="index")


def index_put(
    b: Builder, node: Node, self: Node, indices: Arg, values: Node, accumulate: bool = False
) -> Any:
    found = _indexed(indices)
    mask = found[0][1]
    one = len(found) == 1 and found[0][0] == 0
    if one and mask.dtype == torch.bool and not accumulate and values.shape in ((), (1,)):
        many = rank(mask)

        def at(x: Any, mask: Any, value: Any, *place: Any) -> Any:
            return b.tirx.Select(mask(*place[:many]), b.element(value, place), x(*place))

        operands = b.tensor(self), b.tensor(mask), b.tensor(values, node.dtype)
        return b.compute(node.shape, at, *operands, name="index_put")
    if not one or mask.dtype == torch.bool or rank(mask) != 1:
        raise Declined("but for a vector of places along the first axis")
    return _scattered(b, node, self, 0, mask, values, "add" if accumulate else "update")


def _scattered(
    b: Builder, node: Node, self: Node, axis: int, index: Node, values: Any, how: str
) -> Any:
    """Slices along an axis written, or added, at places of it."""
    shape = (*self.shape[:axis], index.shape[0], *self.shape[axis + 1 :])
    places = b.compute(
        shape, lambda i, *place: i(place[axis]), b.tensor(index, torch.int64), name="places"
    )
    updates = values
    if isinstance(values, Node):
        updates = b.map(shape, lambda x: x, b.tensor(values, node.dtype), name="updates")
    return b.op("scatter_elements", b.tensor(self), places, updates, axis, how)


def index_select(b: Builder, node: Node, self: Node, dim: int, index: Node) -> Any:
    return _looked_up(b, node, self, [(dim % rank(self), index)])


def gather(b: Builder, node: Node, self: Node, dim: int, index: Arg) -> Any:
    axis = dim % rank(self)

    def at(x: Any, i: Any, *place: Any) -> Any:
        return x(*place[:axis], i(*place), *place[axis + 1 :])

    operands = b.tensor(self), b.tensor(index, torch.int64)
    return b.compute(node.shape, at, *operands, name="gather")


def scatter(
    b: Builder, node: Node, self: Node, dim: int, index: Node, src: Arg = None, value: Arg = None
) -> Any:
    if src is None:
        fill = b.scalar(value, node.dtype)
        updates = b.compute(index.shape, lambda *place: fill, name="fill")
    elif src.shape == index.shape:
        updates = b.tensor(src, node.dtype)
    else:
        raise Declined("with a source larger than its index")
    places = b.tensor(index, torch.int64)
    return b.op("scatter_elements", b.tensor(self), places, updates, dim % rank(self), "update")


def index_add(
    b: Builder, node: Node, self: Node, dim: int, index: Node, source: Node, alpha: Arg = 1
) -> Any:
    updates, factor = b.tensor(source, node.dtype), b.scalar(alpha, node.dtype)
    if alpha != 1:
        updates = b.compute_like(updates, lambda x: x * factor, name="scale")
    return _scattered(b, node, self, dim % rank(self), index, updates, "add")


LOWERINGS = {
    "index": index,
    "index_put": index_put,
    "index_select": index_select,
    "gather": gather,
    "scatter": scatter,
    "index_add": index_add,
}
