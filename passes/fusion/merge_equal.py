"""Compute what several nodes compute alike once: common subexpressions.

    f(x, w)  ...  f(x, w)   =   one f(x, w), read by both

Tracing does so already; folds and structure passes make nodes alike that were not. Exact.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import Graph
from ...ir.merge import merge_equal
from ..base import Context, Pass, Remark, applied


@dataclass(frozen=True)
class MergeEqual(Pass):
    """Let readers of a node read an earlier one of the same op, operands and attributes."""

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        return [applied(node, "an earlier node computes the same") for node in merge_equal(graph)]
