"""LayerNorm to RMSNorm by removing the mean from the residual stream (A49, F2).

    LN(x) = RMSNorm(C x) with C = I - 11'/n,  and  C (a + W y + c) = C a + (C W) y + C c

So where all that writes a stream is a table, or a linear map's weights and bias, and all that reads
it is a LayerNorm over the same axis, the writers are centred once and for all and every norm drops
its mean. Exact. Where something else writes it too (a GELU at the stem), that one value is centred
by an op of its own, if more norms gain by it. A stream that is written by the norms themselves
(post-LN), read by anything but a norm, or returned by the model keeps its norms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...ir import Graph, Node
from ...ir.gauge import Blocked, Region, apply, refusal, transport
from ...ir.laws import Kind
from ..base import Context, Remark, applied, blocked, missed
from ..sites import Asked, SitePass
from ..ties import broken_tie, tie_in_the_way, transport_with_ties


@dataclass(frozen=True)
class CenterResidual(SitePass):
    """Replace LayerNorm by RMSNorm.

    Args:
        untie: Do it even where a tied parameter must then be stored twice.
    """

    untie: bool = False
    what: ClassVar[str] = "what a LayerNorm reads, or the norm"

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        remarks: list[Remark] = []
        for node in list(graph.nodes):
            if node.op != "layer_norm" or not node.args:  # an erased node has no arguments
                continue
            stream = node.args[0]
            if not asked(node, stream):
                continue
            region = self._region(graph, node)
            if isinstance(region, Remark):
                remarks.append(region)
                continue
            norms = norms_of(region)
            apply(graph, region, torch.empty(0))
            names = ", ".join(norm.name for norm in norms)
            for norm in norms:
                to_rms_norm(graph, norm)
            text = f"centred through {len(region.parameters)} parameters"
            if region.centered:
                text += f", and {', '.join(n.name for n in region.centered)} by an op"
            text += f"; {len(norms)} LayerNorms became RMSNorms: {names}"
            remarks.append(applied(stream, text, norms=len(norms)))
        return remarks

    def _region(self, graph: Graph, node: Node) -> Region | Remark:
        # A table that shares its weights stays; what it gives is centred by an op.
        region, broken = transport_with_ties(
            graph, node.args[0], Kind.CENTRE, untie=self.untie, insert=True
        )
        if broken and (isinstance(region, Blocked) or not _gains(region)):
            return missed(node, broken_tie(broken))
        if isinstance(region, Blocked):
            return blocked(node, f"its input cannot be centred: {region}", region)
        if not _gains(region):
            cause = next(iter(region.centered.values()))
            return blocked(node, f"its input cannot be centred: {cause}", cause)
        return region


def _gains(region: Region) -> bool:
    """Whether more norms lose their mean than values are centred by an op."""
    return len(norms_of(region)) > len(region.centered)


def norms_of(region: Region) -> list[Node]:
    """The LayerNorms that read a centred stream."""
    return [n for n in region.seen if n.op == "layer_norm" and n.args[0] in region.actions]


def to_rms_norm(graph: Graph, norm: Node) -> None:
    """Turn a LayerNorm of a centred input into an RMSNorm.

    Its bias goes into its readers, or is added behind it.
    """
    weight, bias = norm.operand(1), norm.operand(2)
    if bias is not None:
        region = transport(graph, norm, Kind.SHIFT)
        fits = isinstance(region, Region) and not refusal(region, graph.value(bias))
        if isinstance(region, Region) and fits and not tie_in_the_way(graph, region):
            apply(graph, region, graph.value(bias))
            bias = None
        else:
            bias = norm.args[2]
    attrs = {"normalized_shape": norm.attrs["normalized_shape"], "eps": norm.attrs.get("eps", 1e-5)}
    operands = (norm.args[0],) if weight is None else (norm.args[0], norm.args[1])
    new = graph.add(
        "rms_norm",
        *operands,
        name=norm.name,
        type=norm.type,
        where=norm.where,
        before=norm,
        **attrs,
    )
    if bias is not None:
        result = graph.add(
            "add", new, bias, name=f"{norm.name}_biased", type=norm.type, before=norm
        )
        graph.replace(norm, result)
    graph.supersede(norm, new)
    graph.prune()
