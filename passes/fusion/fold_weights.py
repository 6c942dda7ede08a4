"""Make parameters of weights that are computed from parameters alone.

    conv(x, g v / |v|)  =  conv(x, W)        W = g v / |v|, computed once

So do weight norm, spectral norm and other parametrizations go, and the slices of a weight that
cross-attention reads: what the passes after this one change are parameters. It applies where
nothing else reads what a weight is computed from, and where nothing gets larger. Exact.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from ...ir import Graph, Node, ops
from ...ir.gauge.sites import LINEAR_MAPS
from ...ir.graph import ancestors
from ...ir.interpret import compute
from ...ir.types import is_real
from ..base import Context, Pass, Remark, applied, missed

_STORED = ("dequantize", "decode")  # weights that are stored as codes stay codes

Made: TypeAlias = Mapping[Node, Collection[Node]]  # from which parameters values are computed


@dataclass(frozen=True)
class FoldWeights(Pass):
    """Compute weights once."""

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        made = _from_parameters(graph)
        found = dict.fromkeys(_computed_weights(graph, made))
        inside = ancestors(found) | set(found)
        remarks: list[Remark] = []
        kept = {node: reason for node in found if (reason := _reason(node, found, made, inside))}
        for node in found:
            if node in kept:
                remarks.append(missed(node, kept[node]))
            else:
                remarks.append(_fold(graph, node))
        graph.prune()
        return remarks


def _from_parameters(graph: Graph) -> Made:
    made: dict[Node, set[Node]] = {}
    for node in graph.nodes:
        if ops.get(node.op).impure or node.op in _STORED or not node.inputs:
            continue
        if all(used.op == "param" or used in made for used in node.inputs):
            made[node] = {p for used in node.inputs for p in made.get(used, {used})}
    return made


def _computed_weights(graph: Graph, made: Made) -> Iterator[Node]:
    """What contractions of data read as their weights and biases."""
    for node in graph.nodes:
        if node.op in LINEAR_MAPS and node not in made:
            for value in node.args[1:]:
                if isinstance(value, Node) and value in made and is_real(value.type):
                    yield value


def _reason(node: Node, found: Collection[Node], made: Made, inside: set[Node]) -> str:
    """Why a weight stays computed, or nothing."""
    for value in ancestors([node]):
        others = [] if value in found else [user for user in value.users if user not in inside]
        if others:
            return f"{value.name} is also read by {others[0].name} ({others[0].op})"
    alike = [other for other in found if set(made[node]) & set(made[other])]
    before = {param for other in alike for param in made[other]}
    if sum(map(_count, alike)) > sum(map(_count, before)):
        return "it is larger than what it is computed from"
    return ""


def _count(node: Node) -> int:
    return math.prod(int(size) for size in node.shape)


def _fold(graph: Graph, node: Node) -> Remark:
    reader = next(iter(node.users))
    names = ", ".join(sorted(value.name for value in ancestors([node]) if value.op == "param"))
    graph.supersede(node, graph.param(node.name, _value(graph, node), origin=()))
    return applied(reader, f"its {node.name} is computed once, from {names}")


def _value(graph: Graph, node: Node) -> torch.Tensor:
    behind = ancestors([node]) | {node}
    values: dict[Node, Any] = {p: graph.value(p) for p in graph.params.values() if p in behind}
    with torch.no_grad():
        compute([n for n in graph.nodes if n in behind], values, keep=[node])
    return values[node].contiguous()
