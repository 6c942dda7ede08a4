"""Run a graph twice at once, node by node: as it is, and as it will be once quantized.

Whoever quantizes a node then has both of its inputs at hand, the exact one and the one that the
quantized prefix gives, and what it decides is in force for all that follows. One run over the
calibration data serves every node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from ..ir import Graph, Node, ops
from ..ir.graph import substitute
from .base import Context

Values: TypeAlias = list[Any]  # one for each batch
# Gets a node and, by batch, both streams' values of the data it reads; gives the quantized stream's
# result, by batch, or None where the node is run as it is.
Visit: TypeAlias = Callable[[Node, Values, Values], Values | None]


def run_streams(
    graph: Graph,
    batches: Sequence[Sequence[Any]],
    targets: Mapping[Node, int],
    visit: Visit,
    context: Context,
    who: str,
) -> None:
    """Visit the target nodes in order, each with both streams' values of the operand it maps to.

    What no target needs is not computed. Where the streams do not differ yet they share their
    values.
    """
    wanted = set(targets)
    needed = _ancestors(wanted)
    exact: dict[Node, Values] = {n: [b[i] for b in batches] for i, n in enumerate(graph.inputs)}
    exact |= {node: [graph.value(node)] * len(batches) for node in graph.params.values()}
    quantized = dict(exact)
    last = {used: node for node in graph.nodes if node in needed | wanted for used in node.inputs}
    for node in context.progress([n for n in graph.nodes if n in needed | wanted], who):
        result: Values | None = None
        if node in wanted:
            source = node.args[targets[node]]
            result = visit(node, exact[source], quantized[source])
        if node in needed:
            exact[node] = [_call(node, exact, i) for i in range(len(batches))]
            if result is not None:
                quantized[node] = result
            elif all(quantized[used] is exact[used] for used in node.inputs):
                quantized[node] = exact[node]
            else:
                quantized[node] = [_call(node, quantized, i) for i in range(len(batches))]
        for used in set(node.inputs):
            if last[used] is node:
                exact.pop(used, None)
                quantized.pop(used, None)


def _ancestors(nodes: Iterable[Node]) -> set[Node]:
    """All that the nodes read, and all that these read."""
    found: set[Node] = set()
    stack = [used for node in nodes for used in node.inputs]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(node.inputs)
    return found


def _call(node: Node, values: dict[Node, Values], batch: int) -> Any:
    def value(used: Node) -> Any:
        return values[used][batch]

    args = substitute(node.args, value)
    attrs = {key: substitute(attr, value) for key, attr in node.attrs.items()}
    with torch.no_grad():
        return ops.call(node.op, args, attrs)
