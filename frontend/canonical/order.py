"""Sizes are read off the inputs, and names follow the order."""

from __future__ import annotations

import re

from ...ir import Graph, Node
from .rewrite import sizes


def size_node(graph: Graph, size: str, before: Node) -> Node | None:
    """A node that gives a symbolic size, read off the first input that has it."""
    for source in graph.inputs:
        for dim, found in enumerate(sizes(source)):
            if found == size:
                return graph.add("sym_size", source, before=before, where=before.where, dim=dim)
    return None


def read_sizes_off_inputs(graph: Graph) -> bool:
    """``sym_size(h, 0)`` becomes ``sym_size(x, 0)`` where x is an input with the same size."""
    changed = False
    for node in list(graph.nodes):
        if node.op != "sym_size" or not node.users:
            continue
        source = node.args[0]
        size = sizes(source)[node.attrs["dim"]]
        if isinstance(size, int):
            for user in list(node.users):
                user.replace_input(node, size)
            changed = True
            continue
        other = size_node(graph, size, node) if source.op != "input" else None
        if other is not None:
            graph.replace(node, other)
            changed = True
    if changed:
        graph.prune()
    return changed


def name_in_order(graph: Graph) -> None:
    """Name each node by its op and number those of the same op, each parameter as the user knows
    it.

    So names do not depend on what the trace saw before the canonical form was made.
    """
    hints: dict[Node, str] = {}
    for node in graph.params.values():
        origin = graph.store.origin.get(node.name) or (re.sub(r"(_\d+)+$", "", node.name),)
        hints[node] = origin[0]
    for node in graph.nodes:
        base = node.op.split(".")
        hints[node] = base[0] if len(base) == 1 else base[1].strip("_")
    graph.rename(hints)
