"""Blocks are found, not named: values through which all data flows cut a graph into regions."""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx

from .graph import Graph, Node, ancestors
from .state import find_state
from .types import is_real

_END = "end"


@dataclass(frozen=True)
class Block:
    """A region with one way in and one way out.

    Attributes:
        entry: The value that enters, ``None`` for the first block (it reads the graph's inputs).
        exit: The value that leaves.
        nodes: What computes it, in order, the exit included. What does not depend on the entry and
            several blocks read (a mask, a position bias) is among the nodes of the first.
    """

    entry: Node | None
    exit: Node
    nodes: tuple[Node, ...]


def cuts(graph: Graph) -> list[Node]:
    """The floating-point values that every path from the data to the outputs goes through, in
    order.

    These are the immediate dominators of the outputs' meeting point, read backwards; a value that
    only depends on parameters is not data, and neither are integers such as positions and masks.
    State that comes in in the middle of a block is none of the data, and an output that others are
    computed from, such as that state as it goes on, is no end of them.
    """
    parts = find_state(graph)
    state = {node for part in parts for node in (part.past, part.entered)}
    data = {node for node in graph.inputs if _is_data(node) and node not in state}
    paths: nx.DiGraph[Node | str] = nx.DiGraph()
    # A model of integers (token ids) starts where they first become floating point.
    for node in graph.nodes:
        if node in state:
            continue
        sources = [used for used in node.inputs if used in data]
        if sources or (
            is_real(node.type) and any(n.op == "param" for n in node.inputs) and _reads_input(node)
        ):
            data.add(node)
            paths.add_edges_from((source, node) for source in sources)
            if not sources:
                paths.add_edge("start", node)
    for node in graph.inputs:
        if node in data:
            paths.add_edge("start", node)
    inner = ancestors(graph.output.inputs).union(part.left for part in parts)
    for node in dict.fromkeys(graph.output.inputs):
        if node in data and node not in inner:
            paths.add_edge(node, _END)
    if _END not in paths or "start" not in paths:
        return []
    parents = nx.immediate_dominators(paths, "start")
    chain: list[Node] = []
    step = parents[_END]
    while isinstance(step, Node):
        chain.append(step)
        step = parents[step]
    return [node for node in reversed(chain) if is_real(node.type) and node.op != "input"]


def blocks(graph: Graph) -> list[Block]:
    """The chain of regions between the cuts; a region of one node joins the next."""
    ends = cuts(graph)
    position = {node: index for index, node in enumerate(graph.nodes)}
    found: list[Block] = []
    entry: Node | None = None
    for end in ends:
        nodes = _between(entry, end, position)
        found.append(Block(entry, end, nodes))
        entry = end
    return found


def repeated(graph: Graph) -> list[Block]:
    """The repeated blocks of the graph: cuts joined so that each region has the same ops as the
    next.

    The period is the one that covers most nodes, the shortest of these.
    """
    chain = blocks(graph)
    keys = [_key(block) for block in chain]
    best: tuple[int, int, int] = (0, 0, 0)  # nodes covered, -period, start
    for period in range(1, len(keys) // 2 + 1):
        start = 0
        while start + 2 * period <= len(keys):
            stop = start + period
            while (
                stop + period <= len(keys)
                and keys[stop : stop + period] == keys[start : start + period]
            ):
                stop += period
            if stop - start >= 2 * period:
                covered = sum(len(key) for key in keys[start:stop])
                best = max(best, (covered, -period, -start))
            start += 1
    covered, period, start = best[0], -best[1], -best[2]
    if not covered:
        return []
    found: list[Block] = []
    first = keys[start : start + period]
    while keys[start : start + period] == first:
        group = chain[start : start + period]
        nodes = dict.fromkeys(node for block in group for node in block.nodes)
        found.append(Block(group[0].entry, group[-1].exit, tuple(nodes)))
        start += period
    return found


def flow(block: Block) -> list[Node]:
    """The nodes that data flow through, in order; what blocks share (a mask, a position bias) is
    not there, so these correspond in blocks that repeat one another."""
    found: set[Node] = set() if block.entry is None else {block.entry}
    for node in block.nodes:
        if block.entry is None or any(used in found for used in node.inputs):
            found.add(node)
    return [node for node in block.nodes if node in found]


def _key(block: Block) -> tuple[str, ...]:
    return tuple(node.op for node in flow(block))


def _between(entry: Node | None, end: Node, position: dict[Node, int]) -> tuple[Node, ...]:
    """What ``end`` needs that comes after ``entry``."""
    floor = -1 if entry is None else position[entry]
    found: set[Node] = set()
    stack = [end]
    while stack:
        node = stack.pop()
        if node not in found and position.get(node, -1) > floor:
            found.add(node)
            stack.extend(node.inputs)
    return tuple(sorted(found, key=position.__getitem__))


def _is_data(node: Node) -> bool:
    return is_real(node.type) and node.op != "param"


def _reads_input(node: Node) -> bool:
    return any(n.op == "input" for n in node.inputs)
