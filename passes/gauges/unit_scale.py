"""Weights of unit size, with what they were larger or smaller by as a factor of the result (A01).

    W x + c   =   s (W / s) x + c                s = rms(W), or the power of two next to it

Weights then fill the range of a narrow floating-point format without a scale of their own. Exact;
with powers of two in every precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...ir import Graph, Node
from ...ir.gauge import inputs_of_contractions
from ..base import Context, Remark, Stage, applied, missed
from ..options import check_kinds
from ..sites import Asked, SitePass


@dataclass(frozen=True)
class UnitScale(SitePass):
    """Give each contraction's weights a root mean square of one.

    Args:
        whole: Whether factors are powers of two; the root mean square is then between 0.7 and 1.5.
    """

    whole: bool = True
    what: ClassVar[str] = "a contraction with weights, or what it reads"
    stage: ClassVar[Stage] = Stage.GAUGE

    def __post_init__(self) -> None:
        check_kinds(self, whole=bool)

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        return [
            self._rescale(graph, reader)
            for site in list(inputs_of_contractions(graph))
            for reader in site.readers
            if asked(site.value, reader)
        ]

    def _rescale(self, graph: Graph, node: Node) -> Remark:
        weight: Node = node.args[1]
        if weight.op != "param" or len(weight.users) > 1:
            return missed(node, f"{weight.name} is shared, or stored as codes")
        value = graph.value(weight)
        size = value.double().square().mean().sqrt()
        if not bool(size > 0):
            return missed(node, f"{weight.name} is zero")
        factor = float(torch.exp2(torch.round(torch.log2(size))) if self.whole else size)
        origin = graph.store.origin.get(weight.name, (weight.name,))
        graph.supersede(weight, graph.param(weight.name, value / factor, origin))
        bias = node.operand(2)
        readers = list(node.users)
        plain = graph.add(
            node.op, *node.args[:2], name=f"{node.name}_unit", type=node.type,
            where=node.where, before=node, **node.attrs,
        )  # fmt: skip
        new = graph.add(
            "mul", plain, factor, name=f"{node.name}_sized", type=node.type, before=node
        )
        if bias is not None:
            column = bias
            if node.op != "linear":  # [O] beside [N, O, ...]
                shape = (int(bias.shape[0]), *(1,) * (len(node.shape) - 2))
                column = graph.add("reshape", bias, shape=shape, name=f"{node.name}_column",
                                   before=node)  # fmt: skip
            new = graph.add("add", new, column, name=f"{node.name}_biased", type=node.type,
                            before=node)  # fmt: skip
        for user in readers:
            user.replace_input(node, new)
        graph.prune()
        return applied(new, f"its weights are {1 / factor:.3g} times as large")
