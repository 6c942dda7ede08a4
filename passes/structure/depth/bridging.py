"""Let the last linear map before a gap make up for the layers that were there.

Behind ``p = x + b``, or ``p = b``, where b is what a linear layer or a convolution gives and nobody
else reads, layers are gone that made y of p. The map T over channels that brings ``x + T b``
nearest to y on calibration data,

    T = 1 + cov(y - p, b) (cov(b, b) + damping)^-1,

goes into the weights of the layer; the difference of the means goes into its bias, if it has one.
Gaps are bridged in order, each by what the graph gives with those before it bridged. One run over
the data serves all: what a batch has come to before a gap waits on a shelf.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch

from ....ir import Graph, Node
from ....ir.gauge.sites import CONTRACTIONS
from ....ir.graph import ancestors
from ....ir.interpret import by_input, compute
from ...base import Context
from ...calibration import as_rows, padding_mask
from ...shelf import Series, Shelf, series_of
from ...sites import Asked
from ...ties import own
from ..elimination import Moments
from ..groups import in_full


def bridge(
    graph: Graph,
    stands: Mapping[Node, Node],
    exact: Graph,
    context: Context,
    damping: float,
    who: str,
    asked: Asked,
) -> dict[str, str]:
    """Change the weights before each gap, in place.

    Args:
        graph: With the layers left out.
        stands: For each value that went, the value of the graph that stands for it.
        exact: The graph as it was.
        asked: What the caller protects: no map is changed of that.

    Returns:
        For the name of each value that stands for others, what makes up for them, or why nothing
        does.
    """
    place = {node: index for index, node in enumerate((*graph.inputs, *graph.nodes))}
    # Of those that each stands for; one that stood within a layer that went is gone with it.
    last = {by: exact[value.name] for value, by in stands.items() if by in place}
    found = {by: _map(graph, by, exact, asked) for by in sorted(last, key=place.__getitem__)}
    maps = {by: layer for by, layer in found.items() if isinstance(layer, Node)}
    if maps:
        single, shelf = in_full(graph), Shelf(context.in_memory)
        twins = {node.name: node for node in single.nodes}
        batches = context.need_calibration(who)
        before = in_full(exact)
        goals = series_of(before, batches, [before[last[by].name] for by in maps], shelf)
        gaps = [(twins[by.name], twins[layer.name]) for by, layer in maps.items()]
        run = _Run(single, gaps, batches, shelf)
        for index, layer in enumerate(context.progress(list(maps.values()), f"{who}: bridging")):
            moments = Moments.of(run.rows(index, goals[index]))
            _fold(graph, layer, moments, damping, gaps[index][1], single)
    return {
        by.name: layer if isinstance(layer, str) else f"{layer.name} makes up for it"
        for by, layer in found.items()
    }


def _map(graph: Graph, by: Node, exact: Graph, asked: Asked) -> Node | str:
    """The layer whose result the value is, or is a sum with; or why there is none."""
    terms = by.args if by.op == "add" else [by]
    layers = [term for term in terms if isinstance(term, Node) and _has_weights(term)]
    layers = [layer for layer in layers if layer is by or len(layer.users) == 1]
    if not layers:
        return f"nothing makes up for it: {by.name} is no sum with the result of a linear map"
    before = {user.name for user in exact[by.name].users}
    if others := [user.name for user in by.users if user.name in before]:
        return f"nothing makes up for it: {others[0]} reads {by.name} as it is"
    if sentence := asked.protected_in(layers[:1]):
        return f"nothing makes up for it: {sentence}"
    return layers[0]


def _has_weights(node: Node) -> bool:
    """Whether a map over its channels can go into the weights, which nobody else reads."""
    dense = node.op in CONTRACTIONS and node.attrs.get("groups", 1) == 1
    return dense and own(node, 1) is not None


def _fold(
    graph: Graph, layer: Node, moments: Moments, damping: float, twin: Node, single: Graph
) -> None:
    """Put the map into the weights of the layer, and of its twin in the graph that is run."""
    offset = own(layer, 2) is not None
    matrix, rest = moments.correct(offset=offset, damping=damping)
    new = [torch.tensordot(matrix, graph.value(layer.args[1]).double(), 1)]
    if offset:
        new.append(matrix @ graph.value(layer.args[2]).double() + rest)
    for index, value in enumerate(new, start=1):
        param = graph.give(layer, index, value.to(graph.value(layer.args[index]).dtype))
        single.give(twin, index, graph.value(param).to(single.value(twin.args[index]).dtype))


class _Run:
    """A graph on all batches, halted before each layer that is to be changed.

    Args:
        gaps: What stands before each gap, and the layer that is to make up for it, in order.
    """

    def __init__(
        self,
        graph: Graph,
        gaps: Sequence[tuple[Node, Node]],
        batches: Sequence[Sequence[Any]],
        shelf: Shelf,
    ) -> None:
        self.graph, self.gaps, self.shelf = graph, gaps, shelf
        self.masks = [padding_mask(batch) for batch in batches]
        self.steps = _needed(graph, [by for by, _ in gaps])
        place = {node: index for index, node in enumerate(self.steps)}
        # No further than where the first of the layers is that are still to be changed.
        first = accumulate((place[layer] for _, layer in reversed(gaps)), min)
        self.halts = list(first)[::-1]
        self.ends = [place[by] + 1 for by, _ in gaps]
        self.at = 0
        self.live = graph.inputs  # what steps from there on need
        self.values = shelf.series()  # of these, for each batch
        for batch in batches:
            self.values.append(list(by_input(graph, batch).values()))

    def rows(self, index: int, goal: Series) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """By batch, what a layer gives, and that with what is missing behind it."""
        self._go_on(self.halts[index])
        by, layer = self.gaps[index]
        axis, steps = CONTRACTIONS[layer.op], self.steps[self.at : self.ends[index]]
        for kept, wanted, mask in zip(self.values, goal, self.masks, strict=True):
            values = self._run(steps, kept, (by, layer))
            now = as_rows(values[layer], axis, mask)
            yield now, now + as_rows(wanted - values[by], axis, mask)

    def _go_on(self, place: int) -> None:
        """Run every batch up to a step."""
        steps = self.steps[self.at : place]
        ran = {*self.live, *steps}
        reads = (used for node in self.steps[place:] for used in node.inputs)
        live = [used for used in dict.fromkeys(reads) if used in ran]
        values = self.shelf.series()
        for kept in self.values:
            found = self._run(steps, kept, live)
            values.append([found[node] for node in live])
        self.at, self.live, self.values = place, live, values

    def _run(
        self, steps: Sequence[Node], kept: Sequence[Any], keep: Iterable[Node]
    ) -> dict[Node, Any]:
        return _computed(self.graph, steps, zip(self.live, kept, strict=True), keep)


def _needed(graph: Graph, nodes: Sequence[Node]) -> list[Node]:
    """What has to be run for some values, in order."""
    needed = {*nodes, *ancestors(nodes)}
    return [node for node in graph.nodes if node in needed]


def _computed(
    graph: Graph, steps: Sequence[Node], given: Iterable[tuple[Node, Any]], keep: Iterable[Node]
) -> dict[Node, Any]:
    """What is given, and what some steps make of it where that is to be kept."""
    values = dict(given)
    reads = {used for node in steps for used in node.inputs}
    values |= {node: graph.value(node) for node in reads if node.op == "param"}
    with torch.no_grad():
        compute(steps, values, keep=keep)
    return values
