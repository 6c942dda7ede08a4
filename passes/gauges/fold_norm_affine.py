"""Fold a norm's weight and bias into all that read it.

    W (n(x) g + b) + c  =  (W diag(g)) n(x) + (c + W b)

n is LayerNorm or RMSNorm without affine part, g and b its weight and bias. Exact where every
reader, through reshapes and the like, is a contraction with weights; elsewhere nothing is done. It
breaks ties, with a cost that is stated: by default it then leaves the norm alone. Source: F2, step
1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...ir import Graph, Node
from ...ir.gauge import Blocked, apply, refusal, transport
from ...ir.laws import Kind
from ..base import Context, Remark, applied, blocked, missed
from ..sites import Asked, SitePass
from ..ties import tie_in_the_way

NORMS = ("layer_norm", "rms_norm")


@dataclass(frozen=True)
class FoldNormAffine(SitePass):
    """Leave norms without weight and bias.

    Args:
        untie: Fold even where a tied parameter must then be stored twice.
    """

    untie: bool = False
    what: ClassVar[str] = "a norm with a weight or a bias"

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        return [
            self.fold_into_readers(graph, node)
            for node in list(graph.nodes)
            if node.op in NORMS and _affine(node) and asked(node)
        ]

    def fold_into_readers(self, graph: Graph, node: Node) -> Remark:
        """Fold one norm's weight and bias, in place."""
        weight, bias = node.operand(1), node.operand(2)
        g = None if weight is None else graph.value(weight)
        if g is not None and bool((g == 0).any()):
            return missed(node, f"{node.args[1].name} holds zeros, which cannot be divided out")
        if bias is not None and (
            remark := fold(graph, node, Kind.SHIFT, graph.value(bias), self.untie)
        ):
            return remark
        if g is not None:
            if remark := fold(graph, node, Kind.SCALE, g.abs(), self.untie):
                return remark
            if bool((g < 0).any()) and (
                remark := fold(graph, node, Kind.SIGN, g.sign(), self.untie)
            ):
                return remark
        drop_affine(graph, node)
        return applied(node, "weight and bias went into its readers")


def _affine(node: Node) -> bool:
    return any(arg is not None for arg in node.args[1:])


def fold(graph: Graph, node: Node, kind: Kind, element: torch.Tensor, untie: bool) -> Remark | None:
    """Move one group element from a norm into its readers; says why not."""
    region = transport(graph, node, kind)
    if isinstance(region, Blocked):
        return blocked(node, str(region), region)
    if reason := refusal(region, element):
        return missed(node, reason)
    if sentence := tie_in_the_way(graph, region, untie):
        return missed(node, sentence)
    apply(graph, region, element)
    return None


def drop_affine(graph: Graph, node: Node) -> None:
    """Take out a norm's weight of ones and bias of zeros."""
    for arg, neutral in zip(node.args[1:], (1.0, 0.0), strict=False):
        if arg is not None:
            assert bool(
                torch.isclose(graph.value(arg), torch.tensor(neutral, dtype=arg.dtype)).all()
            )
    node.set(node.args[:1])
    graph.prune()
