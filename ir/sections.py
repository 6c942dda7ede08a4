"""A graph cut into sections, one after the other, so that each can be worked on with no more than
what flows into it at hand.

    graph     one section
    block     the repeated blocks, with what comes before and after them
    branch    every value through which all data flows ends a section
    layer     every contraction ends one

A cut slides behind what follows it without a contraction (the norm of a post-LN block): so what
flows out of a section is what the next contractions read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from .blocks import cuts, repeated
from .gauge.sites import weighted
from .graph import Graph, Node

Cut: TypeAlias = Literal["graph", "block", "branch", "layer"]


@dataclass(frozen=True)
class Section:
    """Nodes that are worked on together.

    Attributes:
        entries: The values that flow in; parameters are none.
        nodes: What computes, in order.
        exits: The values of these that others read, or the graph gives back.
    """

    entries: tuple[Node, ...]
    nodes: tuple[Node, ...]
    exits: tuple[Node, ...]

    @classmethod
    def of(cls, nodes: Sequence[Node]) -> Section:
        """The section of some nodes, which are in order."""
        inside = set(nodes)
        read = dict.fromkeys(used for node in nodes for used in node.inputs)
        entries = [used for used in read if used not in inside and used.op != "param"]
        exits = [node for node in nodes if not node.users.keys() <= inside]
        return cls(tuple(entries), tuple(nodes), tuple(exits))

    def downstream(self, sources: Iterable[Node]) -> set[Node]:
        """The nodes that compute from some others, these included."""
        found = set(sources)
        for node in self.nodes:
            if any(used in found for used in node.inputs):
                found.add(node)
        return found


def sections(graph: Graph, cut: Cut) -> list[Section]:
    """All nodes of a graph, each in the first section that needs it; what no end of a section
    needs is in the last one."""
    order = {node: index for index, node in enumerate(graph.nodes)}
    placed: set[Node] = set()
    found: list[Section] = []
    for end in _ends(graph, cut):
        nodes = _needed(end, order, placed)
        if nodes:
            found.append(Section.of(nodes))
            placed.update(nodes)
    rest = [node for node in graph.nodes if node not in placed]
    return [*found, Section.of(rest)] if rest else found


def _ends(graph: Graph, cut: Cut) -> list[Node]:
    if cut == "graph":
        return []
    if cut == "layer":
        return [node for node in graph.nodes if weighted(node)]
    chain = cuts(graph)
    groups = repeated(graph) if cut == "block" else []
    if not groups:
        ends = chain
    else:
        first = [] if groups[0].entry is None else [groups[0].entry]
        ends = [*first, *(group.exit for group in groups)]
    return list(dict.fromkeys(_slid(end, chain, graph) for end in ends))


def _slid(end: Node, chain: Sequence[Node], graph: Graph) -> Node:
    """The last of the cuts behind a cut before there is a contraction."""
    order = {node: index for index, node in enumerate(graph.nodes)}
    placed = set(_needed(end, order, set()))
    for after in chain[chain.index(end) + 1 :]:
        nodes = _needed(after, order, placed)
        if any(map(weighted, nodes)):
            break
        placed.update(nodes)
        end = after
    return end


def _needed(end: Node, order: dict[Node, int], placed: set[Node]) -> list[Node]:
    """What a value needs that has no place yet, itself included, in order."""
    found: set[Node] = set()
    stack = [end]
    while stack:
        node = stack.pop()
        if node in order and node not in placed and node not in found:
            found.add(node)
            stack.extend(node.inputs)
    return sorted(found, key=order.__getitem__)
