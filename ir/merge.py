"""Equal nodes are one node."""

from __future__ import annotations

from .graph import Graph, Node
from .text import line


def merge_equal(graph: Graph) -> list[Node]:
    """Let readers of a node read an earlier one that computes the same; gives those that went."""
    known: dict[str, Node] = {}
    gone: list[Node] = []
    for node in graph.nodes:
        what = line(node).partition(": ")[2]  # type, op and arguments, without the name
        first = known.setdefault(what, node)
        if first is not node:
            graph.replace(node, first)
            gone.append(node)
    if gone:
        graph.prune()
    return gone
