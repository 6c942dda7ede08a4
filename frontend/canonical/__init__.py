"""The canonical form: many ways to write a network, one graph.

Each file holds one family of rules, and says in its first lines what becomes what. A rule looks at
one node and gives the value that takes its place; rules apply in any order until none does. What
needs the whole graph (equal nodes, positions, constants) takes turns with them.
"""

from __future__ import annotations

from collections.abc import Collection

from ...ir import Graph
from ...ir.merge import merge_equal
from . import (
    activations,
    attention,
    bags,
    broadcast,
    complex,
    constants,
    identity,
    linear,
    movement,
    norms,
    recurrence,
    rows,
    spelling,
)
from .check import check as check
from .masks import simplify
from .order import name_in_order, read_sizes_off_inputs
from .rewrite import join, rewrite

__all__ = ["canonicalize", "check"]

_FAMILIES = (
    spelling,
    identity,
    movement,
    complex,
    broadcast,
    rows,
    bags,
    recurrence,
    linear,
    norms,
    activations,
    attention,
)
_RULES = join(family.RULES for family in _FAMILIES)


def canonicalize(graph: Graph, *, learned: Collection[str] | None = None) -> None:
    """Bring a graph into canonical form, in place.

    Args:
        learned: The names of the parameters that are weights, which are not folded into constants;
            by default all of floating point.
    """
    graph.prune()
    if learned is None:
        learned = {n for n, p in graph.params.items() if p.dtype.is_floating_point}
    changed = True
    while changed:
        changed = rewrite(graph, _RULES)
        changed |= read_sizes_off_inputs(graph)
        changed |= bool(merge_equal(graph))
        changed |= simplify(graph)
        if not changed:  # positions are understood before they become numbers
            changed = constants.fold(graph, learned)
    graph.sort()
    name_in_order(graph)
