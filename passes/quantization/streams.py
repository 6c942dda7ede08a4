"""Run a graph twice at once, node by node: as it is, and as it will be once quantized.

Whoever quantizes a node then has both of its inputs at hand, the exact one and the one that the
quantized prefix gives, and what it decides is in force for all that follows. One run over the
calibration data serves every node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from ...ir import Graph, Node, ops
from ...ir.graph import substitute
from ...ir.sections import Section
from ..base import Context

Values: TypeAlias = list[Any]  # one for each batch
# Gets a node and, by batch, both streams' values of the data it reads; gives the quantized stream's
# result, by batch, or None where the node is run as it is.
Visit: TypeAlias = Callable[[Node, Values, Values], Values | None]


@dataclass(frozen=True)
class Flow:
    """What goes through a section, by batch.

    Attributes:
        exact: What flows in, as it is.
        quantized: What flows in from the quantized part before.
        wanted: What should flow out.
    """

    exact: dict[Node, Values]
    quantized: dict[Node, Values]
    wanted: dict[Node, Values]


# Gets a section whose targets have been visited; gives what flows out of it in the quantized
# stream, by batch, or None where that is what the visits made.
Finish: TypeAlias = Callable[[Section, Flow], "dict[Node, Values] | None"]


def run_streams(
    graph: Graph,
    batches: Sequence[Sequence[Any]],
    targets: Mapping[Node, int],
    visit: Visit,
    context: Context,
    who: str,
    *,
    sections: Sequence[Section] = (),
    finish: Finish | None = None,
) -> None:
    """Visit the target nodes in order, each with both streams' values of the operand it maps to.

    What no target needs is not computed. Where the streams do not differ yet they share their
    values.

    Args:
        sections: All nodes of the graph, section by section, where each is to be finished; only
            those with targets are.
    """
    wanted = set(targets)
    finished = [section for section in sections if not wanted.isdisjoint(section.nodes)]
    exits = {value for section in finished for value in section.exits}
    needed = _ancestors(wanted | exits) | exits
    order = [node for section in sections for node in section.nodes] or graph.nodes
    steps = [node for node in order if node in needed | wanted]
    starts = {_first(section, steps): section for section in finished}
    ends = {_first(section, reversed(steps)): section for section in finished}
    exact: dict[Node, Values] = {n: [b[i] for b in batches] for i, n in enumerate(graph.inputs)}
    exact |= {node: [graph.value(node)] * len(batches) for node in graph.params.values()}
    quantized = dict(exact)
    dying = _last_uses(steps, ends)
    entering: dict[Section, Flow] = {}
    for node in context.progress(steps, who):
        if (section := starts.get(node)) is not None:
            plain, changed = (
                {value: of[value] for value in section.entries} for of in (exact, quantized)
            )
            entering[section] = Flow(plain, changed, {})
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
        if (section := ends.get(node)) is not None and finish is not None:
            flow = entering.pop(section)
            flow.wanted.update({value: exact[value] for value in section.exits})
            quantized |= finish(section, flow) or {}
        for value in dying[node]:
            exact.pop(value, None)
            quantized.pop(value, None)


def _last_uses(steps: Sequence[Node], ends: Mapping[Node, Section]) -> dict[Node, list[Node]]:
    """For each step, the values that nobody needs after it."""
    last: dict[Node, Node] = {}
    for node in steps:
        last |= dict.fromkeys(node.inputs, node)
        if node in ends:
            last |= dict.fromkeys(ends[node].exits, node)
    found: dict[Node, list[Node]] = {node: [] for node in steps}
    for value, node in last.items():
        found[node].append(value)
    return found


def _first(section: Section, steps: Iterable[Node]) -> Node:
    inside = set(section.nodes)
    return next(node for node in steps if node in inside)


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
