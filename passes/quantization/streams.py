"""Run a graph twice at once: as it is, and as it will be once quantized.

Whoever decides for a node has what it reads at hand, from the exact stream and from the one behind
the part that is quantized already, and what it decides is in force for all that follows. One run
over the calibration data serves every node: between two nodes that are decided, one batch after
another is run, so that no more than one batch of what lies between is in memory; what is read later
lies on a shelf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from ...ir import Graph, Node, ops
from ...ir.graph import ancestors, substitute
from ...ir.interpret import converted
from ...ir.memory import give_back
from ...ir.sections import Section
from ..base import Context
from ..shelf import Mapped, Shelf

Values: TypeAlias = Sequence[Any]  # one for each batch
# What the quantized stream makes of the data that a node reads.
Compute: TypeAlias = Callable[[Any], Any]
# Gets a node and, by batch, both streams' values of the data it reads; gives how the quantized
# stream computes the node, or None where it is run as it is.
Visit: TypeAlias = Callable[[Node, Values, Values], Compute | None]


@dataclass(frozen=True)
class Flow:
    """What goes through a section, by batch.

    Attributes:
        exact: What flows in, as it is.
        quantized: What flows in from the quantized part before.
        wanted: What should flow out.
        shelf: Where what flows out can be kept.
    """

    exact: dict[Node, Values]
    quantized: dict[Node, Values]
    wanted: dict[Node, Values]
    shelf: Shelf


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
    exact_too: bool = True,
    passed: Callable[[Node], None] = lambda node: None,
    altered: Mapping[Node, Compute] | None = None,
) -> None:
    """Visit the target nodes in order, each with both streams' values of the operand it maps to.

    What no target needs is not computed. Where the streams do not differ yet they share their
    values.

    Args:
        sections: All nodes of the graph, section by section, where each is to be finished; only
            those with targets are.
        exact_too: Whether the exact stream is run; otherwise the quantized one, which is run
            anyway, stands in its place.
        passed: Called with each node that no stream needs any more.
        altered: What the quantized stream makes of parameters, before anything is visited.
    """
    wanted = set(targets)
    finished = [section for section in sections if not wanted.isdisjoint(section.nodes)]
    exits = {value for section in finished for value in section.exits}
    needed = ancestors(wanted | exits) | exits
    order = [node for section in sections for node in section.nodes] or graph.nodes
    steps = [node for node in order if node in needed | wanted]
    starts = {_first(section, steps): section for section in finished}
    ends = {_first(section, reversed(steps)): section for section in finished}
    last, shelf = _last_uses(steps, ends), Shelf(context.in_memory)
    streams = _Streams(graph, batches, targets, last, shelf, passed, exact_too=exact_too)
    streams.alter(altered or {})
    entering: dict[Section, Flow] = {}
    for index, node in enumerate(context.progress(steps, who)):
        if (section := starts.get(node)) is not None:
            streams.catch_up(index)
            entering[section] = Flow(*streams.values(section.entries), {}, streams.shelf)
        compute: Compute | None = None
        if node in wanted:
            source = node.args[targets[node]]
            if not streams.has(source):
                streams.catch_up(index)
            exact, quantized = (of[source] for of in streams.values([source]))
            compute = visit(node, exact, quantized)
        if node in needed:
            streams.add(node, compute)
        if (section := ends.get(node)) is not None and finish is not None:
            streams.catch_up(index)
            flow = entering.pop(section)
            flow.wanted.update(streams.values(section.exits)[0])
            streams.replace(finish(section, flow) or {})


class _Streams:
    """Two runs over all batches, up to some node.

    Args:
        targets: The nodes that are decided, each with the place of the data it reads.
        last: For each value, the index of the last step that needs it.
        passed: Called with each node that was run over all batches.
        exact_too: Whether there are two of them.
    """

    def __init__(
        self,
        graph: Graph,
        batches: Sequence[Sequence[Any]],
        targets: Mapping[Node, int],
        last: Mapping[Node, int],
        shelf: Shelf,
        passed: Callable[[Node], None],
        *,
        exact_too: bool,
    ) -> None:
        self.exact_too, self.passed = exact_too, passed
        self.graph, self.count, self.targets = graph, len(batches), targets
        self.last, self.shelf = last, shelf
        self.exact: dict[Node, Values] = {
            node: Mapped(lambda k, i=i, node=node: converted(node, batches[k][i]), self.count)
            for i, node in enumerate(graph.inputs)
        }
        self.quantized: dict[Node, Values] = {}  # where it differs
        self.computes: dict[Node, Compute] = {}
        self.pending: list[Node] = []  # needed, and not run yet

    def has(self, value: Node) -> bool:
        return value.op == "param" or value in self.exact

    def values(self, nodes: Iterable[Node]) -> tuple[dict[Node, Values], dict[Node, Values]]:
        """Both streams' values of what has been run."""
        exact = {node: self._exact(node) for node in nodes}
        return exact, {node: self.quantized.get(node, plain) for node, plain in exact.items()}

    def add(self, node: Node, compute: Compute | None) -> None:
        """Run a node when it is needed."""
        self.pending.append(node)
        if compute is not None:
            self.computes[node] = compute

    def alter(self, params: Mapping[Node, Compute]) -> None:
        """Let the quantized stream read other values of parameters."""
        for param, change in params.items():
            self.quantized[param] = Mapped(
                lambda _, param=param, change=change: change(self.graph.value(param)), self.count
            )

    def replace(self, values: Mapping[Node, Values]) -> None:
        """Let the quantized stream have other values of what has been run."""
        self.quantized |= values

    def catch_up(self, index: int) -> None:
        """Run what is pending, batch after batch, and keep what steps from an index on need."""
        kept = [node for node in self.pending if self.last.get(node, -1) >= index]
        differ = self._differing()
        exact = {node: self.shelf.series() for node in kept}
        quantized = {node: self.shelf.series() for node in kept if node in differ}
        for batch in range(self.count):
            for node, plain, changed in self._run(batch, differ):
                if node in exact:
                    exact[node].append(plain)
                if node in quantized:
                    quantized[node].append(changed)
            give_back()
        self.exact |= exact
        self.quantized |= quantized
        for of in (self.exact, self.quantized):
            for node in [node for node in of if self.last.get(node, -1) < index]:
                del of[node]
        ran, self.pending, self.computes = self.pending, [], {}
        for node in ran:
            self.passed(node)

    def _run(self, batch: int, differ: set[Node]) -> Iterator[tuple[Node, Any, Any]]:
        """What is pending, one node after another, each with its value in either stream."""
        last = {used: node for node in self.pending for used in node.inputs}
        exact: dict[Node, Any] = {}
        quantized: dict[Node, Any] = {}

        def plain(used: Node) -> Any:
            if used not in exact:
                exact[used] = self._exact(used)[batch]
            return exact[used]

        def changed(used: Node) -> Any:
            if used not in differ and used not in self.quantized:
                return plain(used)
            if used not in quantized:
                quantized[used] = self.quantized[used][batch]
            return quantized[used]

        for node in self.pending:
            compute = self.computes.get(node)
            if compute is None or self.exact_too:
                exact[node] = _call(node, plain)
            else:
                exact[node] = compute(plain(node.args[self.targets[node]]))
            if compute is not None and self.exact_too:
                quantized[node] = compute(changed(node.args[self.targets[node]]))
            elif node in differ:
                quantized[node] = _call(node, changed)
            yield node, exact[node], quantized.get(node)
            for used in node.inputs:
                if last[used] is node:
                    exact.pop(used, None)
                    quantized.pop(used, None)

    def _differing(self) -> set[Node]:
        """Which of the pending nodes the quantized stream computes by itself."""
        found: set[Node] = set()
        for node in self.pending if self.exact_too else []:
            reads = any(used in found or used in self.quantized for used in node.inputs)
            if reads or node in self.computes:
                found.add(node)
        return found

    def _exact(self, node: Node) -> Values:
        if node.op == "param":
            return Mapped(lambda _: self.graph.value(node), self.count)
        return self.exact[node]


def _last_uses(steps: Sequence[Node], ends: Mapping[Node, Section]) -> dict[Node, int]:
    """For each value, the index of the last step that needs it."""
    last: dict[Node, int] = {}
    for index, node in enumerate(steps):
        last |= dict.fromkeys(node.inputs, index)
        if node in ends:
            last |= dict.fromkeys(ends[node].exits, index)
    return last


def _first(section: Section, steps: Iterable[Node]) -> Node:
    inside = set(section.nodes)
    return next(node for node in steps if node in inside)


def _call(node: Node, value: Callable[[Node], Any]) -> Any:
    args = substitute(node.args, value)
    attrs = {key: substitute(attr, value) for key, attr in node.attrs.items()}
    with torch.no_grad():
        return ops.call(node.op, args, attrs)
