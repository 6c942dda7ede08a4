"""Join linear layers that read one value: queries, keys and values, or gate and up, in one product.

    [W x + b, V x + c]  =  [W; V] x + [b; c],   cut where W ends

One product of more rows reads the value once, and then the parts are cut out again, which is a copy
where the channels are the last axis: measure before use. ONNX Runtime on one thread takes 0.94 of
the time for an encoder's layers at 8 x 128 tokens of 384 channels, and 1.09 at a single token.
Exact.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from ...ir import Graph, Node, TensorType
from ...ir.gauge import inputs_of_contractions
from ...ir.gauge.sites import is_weight
from ..base import Context, Pass, Remark, applied, missed
from ..ties import broken_tie, untied
from .linear_maps import form_of


@dataclass(frozen=True)
class JoinReaders(Pass):
    """Make one linear layer of all that read a value.

    Args:
        untie: Do it even where a tied parameter must then be stored twice.
    """

    untie: bool = False

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        remarks: list[Remark] = []
        for site in list(inputs_of_contractions(graph)):
            linear = [node for node in site.value.users if _reads(node, site.value)]
            readers = [node for node in linear if form_of(node)]
            if len(linear) > 1:
                remarks += [_apart(node, linear) for node in linear if node not in readers]
            if len(readers) < 2:
                continue
            size = graph.store.bytes({node.args[1].name for node in readers})
            broken = untied(graph, readers, readers, size)
            if not self.untie and (sentence := broken_tie(broken)):
                remarks.append(missed(site.value, sentence))
            else:
                remarks.append(_join(graph, site.value, readers))
        return remarks


def _reads(node: Node, value: Node) -> bool:
    return node.op == "linear" and node.args[0] is value


def _apart(node: Node, linear: list[Node]) -> Remark:
    """Why a linear layer does not join others that read what it reads."""
    others = ", ".join(other.name for other in linear if other is not node)
    part = next(part for part in node.args[1:] if part is not None and part.op != "param")
    why = "holds codes" if is_weight(part) else "is no parameter"
    return missed(node, f"it stays beside {others}: {part.name} ({part.op}) {why}")


def _join(graph: Graph, value: Node, readers: list[Node]) -> Remark:
    first = min(readers, key=graph.nodes.index)
    weights = [graph.value(node.args[1]) for node in readers]
    biases = [
        torch.zeros(len(weight), dtype=weight.dtype)
        if node.operand(2) is None
        else graph.value(node.args[2])
        for node, weight in zip(readers, weights, strict=True)
    ]
    name = "_".join(node.name for node in readers)
    operands = [graph.param(f"{name}_weight", torch.cat(weights), ())]
    if any(node.operand(2) is not None for node in readers):
        operands.append(graph.param(f"{name}_bias", torch.cat(biases), ()))
    joined = graph.add(
        "linear", value, *operands, name=name, where=first.where, before=first,
        type=TensorType(value.dtype, (*value.shape[:-1], sum(map(len, weights)))),
    )  # fmt: skip
    ends = list(itertools.accumulate(len(weight) for weight in weights))
    for node, weight, end in zip(readers, weights, ends, strict=True):
        part = graph.add(
            "slice", joined, dim=len(node.shape) - 1, start=end - len(weight), end=end,
            name=node.name, type=node.type, where=node.where, before=node,
        )  # fmt: skip
        graph.supersede(node, part)
    graph.prune()
    return applied(joined, f"{len(readers)} linear layers of {value.name} are one")
