"""The type of a new node, found by running its op on shapes alone.

Symbolic sizes are replaced by large distinct primes, twice, and the op runs on the meta device,
where a tensor has a shape and no memory. A size of the result that is the same both times is a
number; one that follows an expression among the operands' sizes, or a product of two, is that
expression.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch

from . import ops
from .errors import GraphError
from .graph import Arg, Graph, Node, substitute, walk
from .types import Dim, TensorType, Type, dim, evaluate, of, symbols

_PRIMES = (
    1009,
    1013,
    1019,
    1021,
    1031,
    1033,
    1039,
    1049,
    1051,
    1061,
    1063,
    1069,
    1087,
    1091,
    1093,
    1097,
)


def sample(arg: Arg, point: Mapping[str, int]) -> Any:
    """A stand-in for an argument when the symbols have these values: meta tensors, numbers."""

    def stand_in(node: Node) -> Any:
        if isinstance(node.type, TensorType):
            shape = [evaluate(size, point) for size in node.type.shape]
            return torch.empty(shape, dtype=node.type.dtype, device="meta")
        if isinstance(node.type, tuple) or node.op not in ("input", "aten.item.default"):
            return apply(node.op, node.args, node.attrs, point)
        return {"int": 2, "float": 0.5, "bool": True}[node.type.kind]

    return substitute(arg, stand_in)


def apply(
    op: str, args: tuple[Arg, ...], attrs: Mapping[str, Arg], point: Mapping[str, int]
) -> Any:
    """What the op makes of stand-ins for its arguments."""
    values = tuple(sample(arg, point) for arg in args)
    with torch.device("meta"):
        return ops.call(op, values, {key: sample(value, point) for key, value in attrs.items()})


def infer(graph: Graph, op: str, args: tuple[Arg, ...], attrs: Mapping[str, Arg]) -> Type:
    """The type of ``op(*args, **attrs)``; raises ``GraphError`` if the op does not take them."""
    operands = list(walk((*args, *attrs.values())))
    sizes: list[Dim] = [size for n in operands for size in _sizes(n)]
    names = list(
        dict.fromkeys([s for n in operands for s in symbols(n.type)] + list(graph.symbols))
    )
    points: list[dict[str, int]] = []
    for start in (0, 5):
        primes = _PRIMES[start:] + _PRIMES[:start]
        points.append(dict(zip(names, primes, strict=False)))
    try:
        with torch.no_grad():
            results = [
                of(apply(op, args, attrs, point)) for point in (points if names else points[:1])
            ]
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as error:
        shown = ", ".join(str(n) for n in operands)
        reason = str(error).splitlines()[0]
        raise GraphError(f"{op} does not take these arguments: {reason}", where=shown) from error
    return _unify(results, points, [*dict.fromkeys(sizes), *names])


def _sizes(node: Node, depth: int = 3) -> list[Dim]:
    if isinstance(node.type, TensorType):
        return list(node.type.shape)
    if isinstance(node.type, tuple):
        return [size for t in node.type if isinstance(t, TensorType) for size in t.shape]
    return [size for n in node.inputs for size in _sizes(n, depth - 1)] if depth else []


def _unify(results: list[Type], points: list[dict[str, int]], sizes: list[Dim]) -> Type:
    first = results[0]
    if isinstance(first, tuple):
        parts = zip(*(r for r in results if isinstance(r, tuple)), strict=True)
        return tuple(_unify(list(part), points, sizes) for part in parts)
    if not isinstance(first, TensorType):
        return first
    shapes = zip(*(r.shape for r in results if isinstance(r, TensorType)), strict=True)
    return TensorType(
        first.dtype, tuple(_express(tuple(map(int, s)), points, sizes) for s in shapes)
    )


def _express(found: tuple[int, ...], points: list[dict[str, int]], sizes: list[Dim]) -> Dim:
    """The expression that takes these values at these points."""
    if len(set(found)) == 1:
        return found[0]
    values = {size: tuple(evaluate(size, p) for p in points) for size in sizes}
    for size, value in values.items():
        if value == found:
            return size
    for size, value in values.items():
        ratio, rest = divmod(found[0], value[0])
        if not rest and isinstance(size, str) and found[1] == ratio * value[1]:
            return dim(f"{ratio}*({size})")
        ratio, rest = divmod(value[0], found[0])
        if not rest and isinstance(size, str) and value[1] == ratio * found[1]:
            return dim(f"({size})//{ratio}")
        offset = found[0] - value[0]
        if isinstance(size, str) and found[1] - value[1] == offset:
            return dim(f"({size})+{offset}" if offset > 0 else f"({size})-{-offset}")
    for (a, va), (b, vb) in itertools.combinations_with_replacement(values.items(), 2):
        if all(x * y == f for x, y, f in zip(va, vb, found, strict=True)):
            return dim(f"({a})*({b})")
        if all(x + y == f for x, y, f in zip(va, vb, found, strict=True)):
            return dim(f"({a})+({b})")
    raise GraphError(f"no expression over {sizes} gives the size {found}: state the node's type")
