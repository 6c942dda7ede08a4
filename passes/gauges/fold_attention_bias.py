"""Biases of keys and values, which attention does not need.

    softmax(q (k + b)') = softmax(q k' + q b') = softmax(q k')        q b' is the same for every key
    softmax(..) (v + b) = softmax(..) v + b                           the weights sum to one

So a key's bias is dropped, and a value's goes into what reads the result (F8.5). Exact for every
query that attends to something; of one whose mask leaves it no key another result is read. Rotary
and other embeddings of positions, and norms, stop it: they stand between the bias and the product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...ir import Graph, Node
from ...ir.gauge import (
    Blocked,
    Region,
    Site,
    apply,
    attention_pairs,
    refusal,
    transport,
)
from ...ir.laws import Kind
from ..base import Context, Remark, applied, blocked, missed
from ..sites import Asked, SitePass
from ..ties import tie_in_the_way

NO_BIAS = "nothing is added to what makes it"


@dataclass(frozen=True)
class FoldAttentionBias(SitePass):
    """Leave the linear maps that make keys and values without a bias."""

    what: ClassVar[str] = "the keys or the values of an attention"

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        found = [_fold(graph, s) for s in list(attention_pairs(graph)) if asked(s.value)]
        # That there is no bias is worth a word only to who asked for it.
        return [remark for remark in found if self.sites or remark.text != NO_BIAS]


def _fold(graph: Graph, site: Site) -> Remark:
    region = transport(graph, site.value, Kind.SHIFT, axes=site.axes)
    if isinstance(region, Blocked):
        return blocked(site.value, str(region), region)
    writer = _writer(region)
    if writer is None:
        return missed(site.value, NO_BIAS)
    shift = graph.value(writer.args[2])
    if shift.numel() != region.size:
        return missed(writer, "its bias is of more than keys or values, and stays for the rest")
    labels = region.edits[(writer, (2,), (-1,))].action.labels.flatten().long()
    element = torch.empty_like(shift)
    element[labels] = shift
    if reason := refusal(region, element):
        return missed(writer, f"its bias cannot go: {reason}")
    if sentence := tie_in_the_way(graph, region):
        return missed(writer, sentence)
    apply(graph, region, element)
    assert not bool(graph.value(writer.args[2]).any())
    writer.set(writer.args[:2])
    readers = {edit.node.name for edit in region.edits.values() if edit.node is not writer}
    graph.prune()
    where = f"went into {', '.join(sorted(readers))}" if readers else "has no effect, and is gone"
    return applied(writer, f"its bias {where}")


def _writer(region: Region) -> Node | None:
    """The linear map whose bias would take the shift, where it has one."""
    writers = [
        edit.node
        for edit in region.edits.values()
        if edit.through is None and edit.port == (2,) and edit.node.operand(2) is not None
    ]
    return writers[0] if len(writers) == 1 and writers[0].op == "linear" else None
