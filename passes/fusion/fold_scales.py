"""Fold constant factors into the weights that read what they multiply, or that write it.

    W (c x) + b  =  (W diag(c)) x + b

A factor is one of the gauge's own elements: what reads the product takes it up wherever scales pass
(``ir.gauge``: through reshapes, activations of one sign, attentions), in as many weights as read
it; what writes keys takes up a factor of the queries. Where they do not pass, a single number goes
back into the weights before, through ops that only move numbers. Factors right behind a linear map
are folded by ``MergeBranches``. Exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from ...ir import Graph, Node
from ...ir.finite import is_finite
from ...ir.gauge import Blocked, Region, apply, transport, weighted
from ...ir.laws import Kind, Movement
from ...ir.ops import has_law
from ...ir.types import is_real
from ..base import Context, Remark, applied, blocked, missed
from ..sites import Asked, SitePass
from ..ties import own, tie_in_the_way
from .channelwise import constant


@dataclass(frozen=True)
class FoldScales(SitePass):
    """Fold multiplications by constants.

    Args:
        untie: Do it even where a tied parameter must then be stored twice.
    """

    untie: bool = False
    what: ClassVar[str] = "a product of a value and a constant"

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        graph.prune()
        found = [node for node in graph.nodes if node.op in ("mul", "div") and asked(node)]
        remarks: list[Remark] = []
        for node in found:
            scaled = _scaled(graph, node)
            if scaled is not None:
                remarks.append(self._fold(graph, node, *scaled))
        graph.prune()
        return remarks

    def _fold(self, graph: Graph, node: Node, value: Node, factor: torch.Tensor) -> Remark:
        if factor.numel() == 1 and (writer := _writer(node, value)) is not None:
            for index in (1, 2):
                if (param := own(writer, index)) is not None:
                    scaled = graph.value(param).double() * factor.reshape(())
                    graph.give(writer, index, scaled.to(param.dtype))
            graph.replace(node, value)
            return applied(writer, f"took up {node.name}")
        if not bool((factor > 0).all()):
            return missed(node, "only positive factors go on into what reads the product")
        return self._forward(graph, node, value, factor)

    def _forward(self, graph: Graph, node: Node, value: Node, factor: torch.Tensor) -> Remark:
        """Let what reads the product take the factor up."""
        factor = factor.reshape(*[1] * (len(node.shape) - factor.dim()), *factor.shape)
        axes = [axis for axis in range(-1, -len(node.shape) - 1, -1) if factor.shape[axis] > 1]
        if len(axes) > 1:
            return missed(node, "its factors vary along several axes")
        refused: list[Remark] = []
        for axis in axes or range(-1, -len(node.shape) - 1, -1):
            size = node.shape[axis]
            if not isinstance(size, int) or size == 1:
                continue
            element = factor.flatten().expand(size)
            column = element.reshape(size, *[1] * (-axis - 1)).to(node.dtype)
            param = graph.param(f"{node.name}_factor", column)
            product = graph.add(
                "mul", value, param, name=f"{node.name}_scaled", type=node.type, before=node
            )
            readers = list(node.users)
            for reader in readers:
                reader.replace_input(node, product)
            region = transport(graph, product, Kind.SCALE, axes=(axis,))
            if (reason := self._refused(graph, region, product, element)) is None:
                assert isinstance(region, Region)
                apply(graph, region, element.to(node.dtype))
                graph.replace(product, value)
                takers = dict.fromkeys(edit.node.name for edit in region.edits.values())
                names = ", ".join(name for name in takers if name != product.name)
                return applied(value, f"{names} took up {node.name}")
            for reader in readers:
                reader.replace_input(product, node)
            graph.prune()
            refused.append(reason(node))
        return refused[0] if refused else missed(node, "it has no channels of a fixed number")

    def _refused(
        self, graph: Graph, region: Region | Blocked, product: Node, element: torch.Tensor
    ) -> Callable[[Node], Remark] | None:
        """What keeps readers from taking up an element, as a remark on a node."""
        if isinstance(region, Blocked):
            return lambda node: blocked(node, f"its readers cannot take it up: {region}", region)
        along = region.actions[product].power
        for edit in region.edits.values():
            reads = any(value in region.actions for value in edit.node.inputs)
            # The other factor of a product, keys of queries, takes up the opposite.
            if not reads and edit.node is not product and edit.action.power == along:
                text = f"{edit.node.name} adds to it, and would have to be scaled too"
                return lambda node: missed(node, text)
        if product.args[0] in region.actions:
            return lambda node: missed(node, "what it multiplies would be scaled too")
        if bool(region.fixed.any()) or not torch.equal(element[region.groups], element):
            return lambda node: missed(node, "its readers take up another factor for each channel")
        if sentence := tie_in_the_way(graph, region, self.untie):
            return lambda node: missed(node, sentence)
        return None


def _scaled(graph: Graph, node: Node) -> tuple[Node, torch.Tensor] | None:
    """What a node multiplies by a constant, and the constant."""
    if not is_real(node.type) or "rounding_mode" in node.attrs:
        return None
    left, right = node.args
    if node.op == "mul" and constant(graph, left) is not None:
        left, right = right, left
    factor = constant(graph, right)
    if factor is None or not isinstance(left, Node) or left.op == "param":
        return None
    factor = factor.double()
    factor = 1 / factor if node.op == "div" else factor
    fits = left.type == node.type and is_finite(factor) and bool((factor != 0).all())
    return (left, factor) if fits else None


def _writer(node: Node, value: Node) -> Node | None:
    """The linear map whose result a product reads and nobody else, if only moves lie between."""
    reader = node
    while len(value.users) == 1 and reader in value.users:
        if weighted(value):
            bias = value.operand(2)
            mine = own(value, 1) is not None and (bias is None or own(value, 2) is not None)
            return value if mine else None
        if not has_law(value.op, Movement) or len(value.inputs) != 1:
            return None
        reader, value = value, value.inputs[0]
    return None
