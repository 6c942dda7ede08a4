"""Many positions to one: sums, extrema, running sums, sorting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ....ir import Node
from ....ir.graph import Arg
from ...lowering import Declined, rank
from ..builder import Builder


def _axes(dim: Arg) -> tuple[int, ...] | None:
    """The axes named; none means all of them."""
    axes = () if dim is None else dim if isinstance(dim, tuple) else (dim,)
    return axes or None


def _reduce(kind: str) -> Callable[..., Any]:
    def lowering(
        b: Builder,
        node: Node,
        self: Node,
        dim: Arg = None,
        keepdim: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Any:
        value = b.tensor(self, node.dtype)
        return b.reduce(kind, value, _axes(dim), keep=keepdim) if rank(self) else value

    return lowering


def vector_norm(
    b: Builder,
    node: Node,
    self: Node,
    ord: float = 2,
    dim: Arg = None,
    keepdim: bool = False,
    dtype: torch.dtype | None = None,
) -> Any:
    value, t = b.tensor(self, node.dtype), b.tirx
    if ord == 1:
        size = b.compute_like(value, lambda x: t.abs(x), name="size")
        return b.reduce("sum", size, _axes(dim), keep=keepdim)
    if ord != 2:
        raise Declined(f"of order {ord}")
    square = b.compute_like(value, lambda x: x * x, name="square")
    total = b.reduce("sum", square, _axes(dim), keep=keepdim)
    return b.compute_like(total, lambda x: t.sqrt(x), name="sqrt")


def weight_norm(b: Builder, node: Node, v: Node, g: Node, dim: int = 0) -> Any:
    """``g v / |v|``, a norm for each index of ``dim``."""
    value, ndim, t = b.tensor(v), rank(v), b.tirx
    others = [axis for axis in range(ndim) if axis != dim % ndim]
    square = b.compute_like(value, lambda x: x * x, name="square")
    total = b.reduce("sum", square, others, keep=True)
    return b.map(
        node.shape, lambda v, g, s: v * (g / t.sqrt(s)), value, b.tensor(g), total, name="norm"
    )


def _boolean(kind: str) -> Callable[..., Any]:
    """``any`` and ``all`` as extrema of 0 and 1."""

    def lowering(b: Builder, node: Node, self: Node, dim: Arg = None, keepdim: bool = False) -> Any:
        truth = b.cast(b.tensor(self, torch.bool), torch.bool, torch.int32)
        found = b.reduce(kind, truth, _axes(dim), keep=keepdim)
        return b.cast(found, torch.int32, torch.bool)

    return lowering


def _extreme_of(kind: str) -> Callable[..., Any]:
    """Values and indices along an axis."""

    def lowering(
        b: Builder, node: Node, self: Node, dim: int, keepdim: bool = False
    ) -> tuple[Any, ...]:
        value = b.tensor(self)
        values = b.reduce(kind, value, [dim], keep=keepdim)
        return values, b.op(f"arg{kind}", value, axis=dim, keepdims=keepdim)

    return lowering


def argmax(
    b: Builder, node: Node, self: Node, dim: int | None = None, keepdim: bool = False
) -> Any:
    return b.op("argmax", b.tensor(self), axis=dim, keepdims=keepdim)


def topk(
    b: Builder,
    node: Node,
    self: Node,
    k: Arg,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,
) -> tuple[Any, ...]:
    if not isinstance(k, int):
        raise Declined("of a symbolic number")
    pair = b.op("topk", b.tensor(self), k, dim % rank(self), "both", largest, "int64")
    return tuple(b.block.emit(b.relax.TupleGetItem(pair, i)) for i in range(2))


def sort(
    b: Builder, node: Node, self: Node, dim: int = -1, descending: bool = False, stable: Arg = None
) -> tuple[Any, ...]:
    value, axis = b.tensor(self), dim % rank(self)
    places = b.op("argsort", value, axis, descending, "int64")
    return b.op("sort", value, axis, descending), places


def _so_far(
    b: Builder, value: Any, axis: int, reducer: Any, nothing: Any, part: Callable[..., Any]
) -> Any:
    """For each place along an axis what a reduction over all up to it gives.

    Args:
        nothing: What changes no result.
        part: What counts of a place ``k``: ``part(x, k, place)``.
    """
    te, t = b.te_module, b.tirx

    def run(x: Any) -> Any:
        k = te.reduce_axis((0, x.shape[axis]), name="k")

        def at(*place: Any) -> Any:
            there = part(x, k, place)
            return reducer(t.Select(k <= place[axis], there, nothing), axis=k)

        return te.compute(x.shape, at, name="so_far")

    return b.te(run, value, name="so_far")


def cumsum(b: Builder, node: Node, self: Node, dim: int, dtype: torch.dtype | None = None) -> Any:
    return _in_a_row(b, node, self, dim, b.te_module.sum, 0)


def cumprod(b: Builder, node: Node, self: Node, dim: int, dtype: torch.dtype | None = None) -> Any:
    product = b.te_module.comm_reducer(
        lambda x, y: x * y, lambda _: b.number(1, node.dtype), name="product"
    )
    return _in_a_row(b, node, self, dim, product, 1)


def _in_a_row(
    b: Builder, node: Node, self: Node, dim: int, reducer: Callable[..., Any], neutral: int
) -> Any:
    """What a reducer makes of the numbers along an axis up to each place."""
    axis = dim % rank(self)

    def part(x: Any, k: Any, place: Sequence[Any]) -> Any:
        return x(*place[:axis], k, *place[axis + 1 :])

    nothing = b.number(neutral, node.dtype)
    return _so_far(b, b.tensor(self, node.dtype), axis, reducer, nothing, part)


def _running(kind: str) -> Callable[..., Any]:
    """The greatest, or the least, so far, and where the last such stands."""

    def lowering(b: Builder, node: Node, self: Node, dim: int) -> tuple[Any, ...]:
        axis = dim % max(rank(self), 1)
        if not self.shape or self.dtype == torch.bool:
            raise Declined(f"of {self.type}")
        low, high = _limits(self.dtype)
        nothing = b.number(low if kind == "max" else high, self.dtype)
        value, reducer = b.tensor(self), getattr(b.te_module, kind)

        def part(x: Any, k: Any, place: Sequence[Any]) -> Any:
            return x(*place[:axis], k, *place[axis + 1 :])

        best = _so_far(b, value, axis, reducer, nothing, part)
        te, t = b.te_module, b.tirx

        def last(x: Any, best: Any) -> Any:
            k = te.reduce_axis((0, x.shape[axis]), name="k")

            def at(*place: Any) -> Any:
                hit = t.EQ(part(x, k, place), best(*place))
                there = t.all(k <= place[axis], hit)
                return te.max(t.Select(there, k.var.astype("int64"), b.size(0)), axis=k)

            return te.compute(x.shape, at, name="places")

        return best, b.te(last, value, best, name="places")

    return lowering


def _limits(dtype: torch.dtype) -> tuple[float, float]:
    if dtype.is_floating_point:
        return -math.inf, math.inf
    found = torch.iinfo(dtype)
    return found.min, found.max


def diff(
    b: Builder,
    node: Node,
    self: Node,
    prepend: Arg = None,
    append: Arg = None,
    n: int = 1,
    dim: int = -1,
) -> Any:
    if n != 1:
        raise Declined("of a higher order")
    axis = dim % rank(self)
    parts = [b.tensor(part, node.dtype) for part in (prepend, self, append) if part is not None]
    whole = parts[0] if len(parts) == 1 else b.op("concat", parts, axis)

    def at(x: Any, *place: Any) -> Any:
        later = x(*place[:axis], place[axis] + 1, *place[axis + 1 :])
        return later - x(*place)

    return b.compute(node.shape, at, whole, name="diff")


LOWERINGS: dict[str, Callable[..., Any]] = {
    "mean": _reduce("mean"),
    "_weight_norm": weight_norm,
    "linalg_vector_norm": vector_norm,
    "sum": _reduce("sum"),
    "amax": _reduce("max"),
    "amin": _reduce("min"),
    "aten.max.default": _reduce("max"),
    "aten.min.default": _reduce("min"),
    "aten.max.dim": _extreme_of("max"),
    "aten.min.dim": _extreme_of("min"),
    "any": _boolean("max"),
    "all": _boolean("min"),
    "argmax": argmax,
    "topk": topk,
    "aten.sort.default": sort,
    "cumsum": cumsum,
    "aten.cumprod.default": cumprod,
    "aten.diff.default": diff,
    "aten.cummax.default": _running("max"),
    "aten.cummin.default": _running("min"),
}
