"""Round to codes the queries and keys by whose products a softmax weighs.

    softmax(s q k')   becomes   softmax(dequantize(quantize(s q)) dequantize(quantize(k))')

Both in eight bits about zero, each with one scale from the range that was seen: a product of codes
then needs no correction for zero points, which few kernels of two computed factors have. What the
softmax gives is not rounded. Most of it is far below the 255th part of one, so eight bits cost it
several times the error of the scores. Approximate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from ...ir import Graph, Node, ops
from ...ir.gauge import Site
from ...ir.gauge.sites import is_weight
from ...ir.laws import Add, Elementwise, Movement, Mul, Softmax, Where
from ..base import Context, Pass, Promise, Remark, Stage, applied
from ..calibration import observe
from .insertion import insert_static

_PRODUCTS = ("matmul", "bmm")
_BETWEEN = (Add, Elementwise, Movement, Mul, Where)  # masks, scales and caps of scores
_LARGEST = torch.iinfo(torch.int8).max


@dataclass(frozen=True)
class QuantizeScores(Pass):
    """Give codes of eight bits to what the scores of attention are products of.

    A target gains by it that multiplies the two as integers, which takes attention in its parts
    (``Legalize``); one with an op for attention computes it on rounded numbers. Comes after
    ``Quantize``.
    """

    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.QUANTIZE

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        readers = dict[Node, list[Node]]()
        found = list(_scores(graph))
        for node in found:
            for factor in dict.fromkeys(node.args[:2]):
                readers.setdefault(factor, []).append(node)
        seen = observe(graph, context, {value.name: -1 for value in readers}, self.name, sample=0)
        zero = torch.zeros((), dtype=torch.int8)
        for value, products in readers.items():
            scale = (seen[value.name].absmax.max() / _LARGEST).clamp(min=1e-12)
            insert_static(graph, Site(value, -1, tuple(products)), scale, zero)
        return [applied(node, "queries and keys in codes") for node in found]


def _scores(graph: Graph) -> Iterator[Node]:
    """Ops of which a softmax weighs by the products of the first two operands, both computed."""
    found = dict[Node, None]()
    for node in graph.nodes:
        if node.op == "scaled_dot_product_attention":
            found[node] = None
        elif isinstance(ops.get(node.op).law, Softmax):
            found |= dict.fromkeys(_products(node.args[0]))
    for node in found:
        if not any(is_weight(factor) or factor.op == "dequantize" for factor in node.args[:2]):
            yield node


def _products(scores: Node) -> Iterator[Node]:
    """What scores are the products of, masked, scaled or added up."""
    pending, seen = [scores], set[Node]()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op in _PRODUCTS:
            yield node
        elif node.op in ops.OPS and isinstance(ops.get(node.op).law, _BETWEEN):
            pending += [arg for arg in node.inputs if arg.dtype.is_floating_point]
