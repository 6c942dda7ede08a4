"""What follows from constants and buffers alone is computed once.

Weights that were learned stay as they are, whatever is computed from them. No constant is made
larger than ``LARGEST`` numbers, and none is stored expanded. A floating-point constant keeps its
value in float64 beside its own, so that the graph in float64 is the model in float64. An integer
that follows from floating-point numbers is what the model's own dtype makes it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import torch

from ...ir import Graph, Lazy, Node, ScalarType, TensorType
from ...ir import ops as table
from ...ir.graph import substitute
from ...ir.laws import Movement
from ...ir.precision import convert_attr
from ...ir.types import of

LARGEST = 1 << 20


class _Value(NamedTuple):
    """A constant in its own dtype and in float64."""

    own: Any
    exact: Any


def fold(graph: Graph, learned: Collection[str] | None = None) -> bool:
    """Replace what is constant by parameters; returns whether anything was.

    Args:
        learned: The names of the parameters that are weights; by default all of floating point.
    """
    if learned is None:
        learned = {n for n, p in graph.params.items() if p.dtype.is_floating_point}
    known: dict[Node, _Value] = {}
    for node in graph.nodes:
        found = _evaluate(graph, node, known, learned)
        if found is not None:
            known[node] = found
    changed = _numbers(graph, learned)
    for node in reversed(list(known)):
        changed |= _store(graph, node, known)
    graph.prune()
    return changed


def _evaluate(
    graph: Graph, node: Node, known: dict[Node, _Value], learned: Collection[str]
) -> _Value | None:
    if table.get(node.op).impure or not _small(node) or node.op == "dequantize":
        return None  # weights that are stored as codes stay codes
    values: dict[Node, _Value] = {}
    for used in node.inputs:
        if used in known:
            values[used] = known[used]
        elif used.op == "param" and used.name not in learned:
            own = graph.value(used)
            if own.device.type == "meta":
                return None
            exact = graph.store.tensors[used.name]
            exact = exact.exact() if isinstance(exact, Lazy) and exact.exact else own
            values[used] = _Value(own, _double(exact))
        else:
            return None
    own, exact = (_call(node, values, i) for i in (0, 1))
    inexact = isinstance(own, torch.Tensor) and (own.is_floating_point() or own.is_complex())
    return _Value(own, exact if inexact or isinstance(own, tuple) else own)


def _small(node: Node) -> bool:
    """Whether the value has numbers for sizes, and not too many."""
    if isinstance(node.type, ScalarType):
        return True
    types = node.type if isinstance(node.type, tuple) else (node.type,)
    for type_ in types:
        if not isinstance(type_, TensorType) or any(isinstance(s, str) for s in type_.shape):
            return False
        count = 1
        for size in type_.shape:
            count *= int(size)
        if count > LARGEST:
            return False
    return bool(types)


def _call(node: Node, values: dict[Node, _Value], which: int) -> Any:
    args = substitute(node.args, lambda used: values[used][which])
    attrs = {
        key: substitute(value, lambda used: values[used][which])
        for key, value in node.attrs.items()
    }
    if which:
        attrs = {key: convert_attr(value, torch.float64) for key, value in attrs.items()}
    with torch.no_grad():
        return table.call(node.op, args, attrs)


def _double(value: torch.Tensor) -> torch.Tensor:
    if value.is_complex():
        return value.to(torch.complex128)
    return value.double() if value.is_floating_point() else value


def _store(graph: Graph, node: Node, known: dict[Node, _Value]) -> bool:
    """Put a constant that something else reads into the store."""
    readers = [user for user in node.users if user not in known or user.op == "expand"]
    value = known[node].own
    if not readers or node.op == "expand" or (node.op == "full" and node.attrs["size"] == ()):
        return False
    if isinstance(node.type, ScalarType):
        for user in readers:
            user.replace_input(node, value)
        return True
    if not isinstance(value, torch.Tensor) or of(value) != node.type:
        return False
    stored = _stored(known[node])
    if value.dim() == 0 and not isinstance(stored, Lazy):
        new = _number(graph, value, value, node)
    else:
        new = graph.param(_hint(node), stored, origin=())
    graph.replace(node, new)
    return True


def _hint(node: Node) -> str:
    """The op that made the numbers, which says more than how they were moved."""
    while (
        node.args
        and isinstance(node.args[0], Node)
        and isinstance(table.get(node.op).law, Movement)
    ):
        node = node.args[0]
    return node.op.removeprefix("aten.").split(".")[0] if node.op != "param" else node.name


def _number(graph: Graph, value: torch.Tensor, exact: torch.Tensor, before: Node) -> Node:
    """A tensor without axes."""
    attrs: dict[str, Any] = {"size": (), "fill_value": exact.item(), "dtype": value.dtype}
    return graph.add("full", type=of(value), where=before.where, before=before, **attrs)


def _numbers(graph: Graph, learned: Collection[str]) -> bool:
    """Buffers without axes are numbers, and stand in the graph as such."""
    changed = False
    for node in list(graph.params.values()):
        if node.users and node.shape == () and node.name not in learned and graph.nodes:
            value = graph.value(node)
            if value.device.type != "meta":
                stored = graph.store.tensors[node.name]
                exact = stored.exact() if isinstance(stored, Lazy) and stored.exact else value
                graph.replace(node, _number(graph, value, exact, graph.nodes[0]))
                changed = True
    return changed


def _stored(value: _Value) -> torch.Tensor | Lazy:
    own, exact = (v.contiguous() for v in value)
    if own.dtype == exact.dtype or torch.equal(own.to(exact.dtype), exact):
        return own
    return Lazy(TensorType(own.dtype, tuple(own.shape)), lambda: own, lambda: exact)
