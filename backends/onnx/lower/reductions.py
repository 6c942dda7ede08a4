"""Many positions to one: sums, extrema, windows, running sums, sorting."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ....ir import Node
from ....ir.graph import Arg
from ..builder import Builder, Declined, rank
from .scan import scan


def _axes(dim: Arg) -> tuple[int, ...]:
    """The axes named; none means all of them."""
    return () if dim is None else dim if isinstance(dim, tuple) else (dim,)


def _reduce(kind: str) -> Callable[..., str]:
    def lowering(
        b: Builder,
        node: Node,
        self: Arg,
        dim: Arg = None,
        keepdim: bool = False,
        dtype: torch.dtype | None = None,
    ) -> str:
        axes = b.ints(*_axes(dim)) if _axes(dim) else ""
        return b.op(kind, b.tensor(self, node.dtype), axes, keepdims=int(keepdim))

    return lowering


def vector_norm(
    b: Builder,
    node: Node,
    self: Node,
    ord: float = 2,
    dim: Arg = None,
    keepdim: bool = False,
    dtype: torch.dtype | None = None,
) -> str:
    kinds = {1.0: "ReduceL1", 2.0: "ReduceL2"}
    if ord not in kinds:
        raise Declined(f"of order {ord}")
    axes = b.ints(*_axes(dim)) if _axes(dim) else ""
    return b.op(kinds[float(ord)], b.tensor(self, node.dtype), axes, keepdims=int(keepdim))


def weight_norm(b: Builder, node: Node, v: Node, g: Node, dim: int = 0) -> str:
    """``g v / |v|``, a norm for each index of ``dim``."""
    value, ndim = b.tensor(v), rank(v)
    others = [axis for axis in range(ndim) if axis != dim % ndim]
    return b.op("Mul", value, b.op("Div", b.tensor(g), b.op("ReduceL2", value, b.ints(*others))))


def _boolean(kind: str) -> Callable[..., str]:
    """``any`` and ``all`` as extrema of 0 and 1."""

    def lowering(b: Builder, node: Node, self: Arg, dim: Arg = None, keepdim: bool = False) -> str:
        axes = b.ints(*_axes(dim)) if _axes(dim) else ""
        truth = b.cast(b.tensor(self, torch.bool), torch.int32)
        return b.cast(b.op(kind, truth, axes, keepdims=int(keepdim)), torch.bool)

    return lowering


def _extreme_of(kind: str, arg: str) -> Callable[..., tuple[str, ...]]:
    """Values and indices along an axis."""

    def lowering(
        b: Builder, node: Node, self: Node, dim: int, keepdim: bool = False
    ) -> tuple[str, ...]:
        value = b.tensor(self)
        values = b.op(kind, value, b.ints(dim), keepdims=int(keepdim))
        return values, b.op(arg, value, axis=dim, keepdims=int(keepdim))

    return lowering


def argmax(
    b: Builder, node: Node, self: Node, dim: int | None = None, keepdim: bool = False
) -> str:
    if dim is not None:
        return b.op("ArgMax", b.tensor(self), axis=dim, keepdims=int(keepdim))
    flat = b.op("ArgMax", b.op("Reshape", b.tensor(self), b.ints(-1)), axis=0, keepdims=0)
    return b.op("Reshape", flat, b.ints(*[1] * rank(self))) if keepdim else flat


def topk(
    b: Builder,
    node: Node,
    self: Node,
    k: Arg,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,
) -> tuple[str, ...]:
    attributes = {"axis": dim, "largest": int(largest), "sorted": int(sorted)}
    return b.ops("TopK", b.tensor(self), b.number(k), count=2, **attributes)


def sort(
    b: Builder, node: Node, self: Node, dim: int = -1, descending: bool = False, stable: Arg = None
) -> tuple[str, ...]:
    value = b.tensor(self)
    size = b.size(value, dim % rank(self))
    return b.ops("TopK", value, size, count=2, axis=dim, largest=int(descending), sorted=1)


def cumsum(b: Builder, node: Node, self: Arg, dim: int, dtype: torch.dtype | None = None) -> str:
    return b.op("CumSum", b.tensor(self, node.dtype), b.constant(dim, torch.int64))


def cumprod(b: Builder, node: Node, self: Arg, dim: int) -> str:
    x, axis = b.tensor(self, node.dtype), dim % max(rank(node), 1)
    if not node.shape:
        return b.op("Identity", x)
    first = b.op("Gather", x, b.constant(0, torch.int64), axis=axis)
    start = b.op("Expand", b.constant(1, node.dtype), b.op("Shape", first))

    def step(b: Builder, states: list[str], inputs: list[str]) -> list[str]:
        return [b.op("Mul", states[0], inputs[0])]

    return scan(b, [(start, node.dtype)], [(x, node.dtype)], step, axes=(axis,), axis=axis)[1]


def _running(compare: str) -> Callable[..., tuple[str, ...]]:
    """The greatest, or the least, so far, and where the last such stands."""

    def lowering(b: Builder, node: Node, self: Node, dim: int) -> tuple[str, ...]:
        x, axis = b.tensor(self), dim % max(rank(self), 1)
        if not self.shape or self.dtype == torch.bool:
            raise Declined(f"of {self.type}")
        first = b.op("Gather", x, b.constant(0, torch.int64), axis=axis)
        start = b.op("Expand", b.constant(0, torch.int64), b.op("Shape", first))
        one = b.constant(1, torch.int64)
        size = b.op("Squeeze", b.size(x, axis))
        places = b.op("Range", b.constant(0, torch.int64), size, one)

        def step(b: Builder, states: list[str], inputs: list[str]) -> list[str]:
            better = b.op(compare, inputs[0], states[0])
            pairs = zip(inputs, states, strict=True)
            return [b.op("Where", better, new, old) for new, old in pairs]

        kinds = (self.dtype, torch.int64)
        states = list(zip((first, start), kinds, strict=True))
        inputs = list(zip((x, places), kinds, strict=True))
        return scan(b, states, inputs, step, axes=(axis, 0), axis=axis, kept=2)[2:]

    return lowering


def diff(
    b: Builder,
    node: Node,
    self: Node,
    prepend: Arg = None,
    append: Arg = None,
    n: int = 1,
    dim: int = -1,
) -> str:
    if n != 1:
        raise Declined("of a higher order")
    axis = dim % rank(self)
    parts = [b.tensor(part, node.dtype) for part in (prepend, self, append) if part is not None]
    whole = parts[0] if len(parts) == 1 else b.op("Concat", *parts, axis=axis)
    later = b.op("Slice", whole, b.ints(1), b.ints((1 << 63) - 1), b.ints(axis))
    return b.op("Sub", later, b.op("Slice", whole, b.ints(0), b.ints(-1), b.ints(axis)))


LOWERINGS = {
    "mean": _reduce("ReduceMean"),
    "_weight_norm": weight_norm,
    "linalg_vector_norm": vector_norm,
    "sum": _reduce("ReduceSum"),
    "amax": _reduce("ReduceMax"),
    "amin": _reduce("ReduceMin"),
    "aten.max.default": _reduce("ReduceMax"),
    "aten.min.default": _reduce("ReduceMin"),
    "aten.max.dim": _extreme_of("ReduceMax", "ArgMax"),
    "aten.min.dim": _extreme_of("ReduceMin", "ArgMin"),
    "any": _boolean("ReduceMax"),
    "all": _boolean("ReduceMin"),
    "argmax": argmax,
    "topk": topk,
    "aten.sort.default": sort,
    "cumsum": cumsum,
    "aten.cumprod.default": cumprod,
    "aten.diff.default": diff,
    "aten.cummax.default": _running("GreaterOrEqual"),
    "aten.cummin.default": _running("LessOrEqual"),
}
