"""Compute what several nodes compute alike once: common subexpressions.

    f(x, w)  ...  f(x, w)   =   one f(x, w), read by both

Tracing does so already; folds and structure passes make nodes alike that were not. Exact.

Of norms, which models often have two of on one value, those that are not merged but nearly equal
are remarked on: they differ in an attribute, or hold the same numbers in parameters of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...ir import Graph, Node
from ...ir.laws import BatchNorm, Normalize
from ...ir.merge import merge_equal
from ...ir.ops import has_law
from ..base import Context, Pass, Remark, applied, missed


@dataclass(frozen=True)
class MergeEqual(Pass):
    """Let readers of a node read an earlier one of the same op, operands and attributes."""

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        gone = merge_equal(graph)
        remarks = [applied(node, "an earlier node computes the same") for node in gone]
        return [*remarks, *_nearly_equal(graph)]


def _nearly_equal(graph: Graph) -> list[Remark]:
    """Norms that nearly compute what an earlier one does."""
    remarks: list[Remark] = []
    known: dict[tuple[str, Node], list[Node]] = {}
    for node in graph.nodes:
        if not has_law(node.op, Normalize, BatchNorm):
            continue
        others = known.setdefault((node.op, node.args[0]), [])
        reasons = ((other, _difference(graph, node, other)) for other in others)
        if found := next(((other, reason) for other, reason in reasons if reason), None):
            remarks.append(missed(node, f"it stays beside {found[0].name}: {found[1]}"))
        others.append(node)
    return remarks


def _difference(graph: Graph, node: Node, other: Node) -> str:
    """In what two norms of one value differ, if that is little; else empty."""
    mine, theirs = node.args[1:], other.args[1:]
    if mine == theirs:
        keys = sorted(node.attrs.keys() | other.attrs.keys())
        pairs = [(key, node.attrs.get(key), other.attrs.get(key)) for key in keys]
        return ", ".join(f"{key} is {a}, not {b}" for key, a, b in pairs if a != b)
    if node.attrs != other.attrs or len(mine) != len(theirs):
        return ""
    apart = [(a, b) for a, b in zip(mine, theirs, strict=True) if a is not b]
    if not all(_holds_the_same(graph, *pair) for pair in apart):
        return ""
    names = ", ".join(f"{a.name} has the numbers of {b.name}" for a, b in apart)
    return f"{names}, and is a parameter of its own"


def _holds_the_same(graph: Graph, a: Node | None, b: Node | None) -> bool:
    if a is None or b is None or (a.op, b.op) != ("param", "param") or a.type != b.type:
        return False
    return torch.equal(graph.value(a), graph.value(b))
