"""Multiply linear maps that follow each other with nothing between: two layers as one.

    W (V x + c) + b  =  (W V) x + (W c + b)

W and V are linear layers, or convolutions one of which reads a single position; only where the
product has no more weights than the two, so not where a bottleneck lies between. Exact. A
convolution that pads what has a bias sees zeros where the product would see the bias, and stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ...ir import Graph, Node
from ..base import Context, Pass, Remark, applied, missed
from ..ties import broken_tie, untied
from .linear_maps import Apart, Form, Window, form_of

POINT = Window(1)


@dataclass(frozen=True)
class MergeChains(Pass):
    """Make one linear map of two in a row.

    Args:
        untie: Do it even where a tied parameter must then be stored twice.
    """

    untie: bool = False

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        remarks: list[Remark] = []
        for node in list(graph.nodes):
            outer = form_of(node)
            inner = form_of(node.args[0]) if outer is not None else None
            if outer is None or inner is None:
                continue
            try:
                remarks.append(self._merge(graph, node, outer, inner))
            except Apart as apart:
                remarks.append(missed(node, f"it stays behind {node.args[0].name}: {apart}"))
        return remarks

    def _merge(self, graph: Graph, node: Node, outer: Form, inner: Form) -> Remark:
        before: Node = node.args[0]
        if others := [user.name for user in before.users if user is not node]:
            raise Apart(f"{before.name} is also read by {', '.join(others)}")
        form = _product(outer, inner, before.operand(2) is not None)
        both = (before, node)
        broken = untied(graph, both, both, form.size * node.dtype.itemsize)
        if not self.untie and (sentence := broken_tie(broken)):
            raise Apart(sentence)
        attributes = form.attributes(before.args[0], node)
        weight, bias = _numbers(graph, node, before)
        node.set((before.args[0], *node.args[1:]), attributes)
        graph.prune()
        graph.give(node, 1, weight.contiguous())
        if bias is not None:
            graph.give(node, 2, bias, name=f"{node.name}_bias")
        text = f"took up {before.name}: {form.size} weights for {outer.size + inner.size}"
        return applied(node, text)


def _product(outer: Form, inner: Form, biased: bool) -> Form:
    """The form of one map after another; raises ``Apart``."""
    if outer.op != inner.op:
        raise Apart(f"one is {inner.op}, the other {outer.op}")
    if (outer.groups, inner.groups) != (1, 1):
        raise Apart("their channels fall into groups")
    if all(window == POINT for window in outer.windows):
        windows = inner.windows
    elif not all(window == POINT for window in inner.windows):
        raise Apart("both read several positions, or skip some")
    elif biased and any(window.before or window.after for window in outer.windows):
        raise Apart("it pads with zeros what has a bias")
    else:
        windows = outer.windows
    form = replace(outer, inputs=inner.inputs, windows=windows)
    if form.size > outer.size + inner.size:
        raise Apart(f"together they have {form.size} weights, apart {outer.size + inner.size}")
    return form


def _numbers(graph: Graph, node: Node, before: Node) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of the product."""
    outer, inner = graph.value(node.args[1]), graph.value(before.args[1])
    bias = None if node.operand(2) is None else graph.value(node.args[2])
    if before.operand(2) is not None:
        moved = outer.flatten(2).sum(-1) if outer.dim() > 2 else outer
        moved = moved @ graph.value(before.args[2])
        bias = moved if bias is None else bias + moved
    if outer[0, 0].numel() == 1:
        return torch.tensordot(outer.flatten(1), inner, dims=1), bias
    return (outer.movedim(1, -1) @ inner.flatten(1)).movedim(-1, 1), bias
