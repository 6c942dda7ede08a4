"""What functions that write an op in others are given, and what they raise."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ...ir import Graph, Node
from ...ir.graph import Arg


class Apart(Exception):
    """A form of an op that has no equal here; the text says which."""


class Ops:
    """Adds ops in front of a node, called by their names.

    Args:
        masked: What scores of attention are that do not count.
        lacks: The ops that are not taken.
    """

    def __init__(self, graph: Graph, before: Node, masked: float, lacks: Collection[str]) -> None:
        self.graph, self.before, self.masked, self.lacks = graph, before, masked, lacks

    def __getattr__(self, op: str) -> Callable[..., Node]:
        def add(*args: Arg, **attrs: Arg) -> Node:
            where = self.before.where
            return self.graph.add(op, *args, where=where, before=self.before, **attrs)

        return add
