"""What a graph costs with some of its channels left out, without making it.

A parameter, and a product, has a size that is a product over its axes. Along each axis those rows
are left that every group keeps which the axis holds channels of, so the cost of any choice of
channels is known exactly from the labels of the regions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...ir import Graph, Node, ops
from ...ir.interpret import check_inputs
from ...ir.laws import Action, Contract, Conv, Recode, ScaledDotProduct
from ...ir.state import RECODE
from ...ir.types import evaluate
from .groups import Group, kept_rows

Kept = Sequence[torch.Tensor]  # of each group, which units stay


@dataclass
class _Axis:
    """One axis of a counted size: how long it is, and the labels in each row, by group."""

    size: int
    held: list[tuple[int, torch.Tensor]] = field(default_factory=list[tuple[int, torch.Tensor]])

    def left(self, kept: Sequence[torch.Tensor]) -> int:
        """How many rows stay, for the coordinates of each group that do."""
        if not self.held:
            return self.size
        stays = torch.ones(self.size, dtype=torch.bool)
        for group, labels in self.held:
            stays &= kept_rows(labels, kept[group]).any(1)
        return int(stays.sum())


@dataclass
class _Term:
    """A product of axes, so many times."""

    axes: list[_Axis]
    times: int = 1

    def left(self, kept: Sequence[torch.Tensor]) -> int:
        return self.times * math.prod(axis.left(kept) for axis in self.axes)


class Costs:
    """Parameters and multiply-accumulates of a graph, for any choice of units of some groups."""

    def __init__(self, graph: Graph, groups: Sequence[Group], inputs: Sequence[Any] = ()) -> None:
        """Sizes that are symbolic are those of the inputs; at least 1 where there are none."""
        self.groups = groups
        least = {name: max(low, 1) for name, (low, _) in graph.symbols.items()}
        self.sizes: Mapping[str, int] = {**least, **(check_inputs(graph, inputs) if inputs else {})}
        own = (param for param in graph.params.values() if not _is_form_of_state(param))
        self._parameters = [self._term(param, self._of_parameter(param)) for param in own]
        self._macs = [term for node in graph.nodes for term in self._products(node)]

    def parameters(self, kept: Kept | None = None) -> int:
        """How many numbers the parameters have."""
        return sum(term.left(self._coordinates(kept)) for term in self._parameters)

    def macs(self, kept: Kept | None = None) -> int:
        """How many products of linear layers, convolutions and attentions one run takes."""
        return sum(term.left(self._coordinates(kept)) for term in self._macs)

    def both(self, kept: Kept | None = None) -> tuple[int, int]:
        """Parameters and products."""
        return self.parameters(kept), self.macs(kept)

    def of(self, nodes: Iterable[Node]) -> int:
        """How many products some of the graph's ops take, with all channels."""
        coordinates = self._coordinates(None)
        return sum(term.left(coordinates) for node in nodes for term in self._products(node))

    def _coordinates(self, kept: Kept | None) -> list[torch.Tensor]:
        units = kept or [torch.ones(group.count, dtype=torch.bool) for group in self.groups]
        return [g.coordinates(some) for g, some in zip(self.groups, units, strict=True)]

    # -- what is counted ------------------------------------------------------------------------

    def _term(self, value: Node, held: Sequence[tuple[int, Action]], times: int = 1) -> _Term:
        axes = [_Axis(size) for size in self._shape(value)]
        for group, action in held:
            for axis, labels in _along(action).items():
                if axes[axis].size == len(labels):  # one number may serve all channels
                    axes[axis].held.append((group, labels))
        return _Term(axes, times)

    def _of_parameter(self, param: Node) -> list[tuple[int, Action]]:
        return [
            (index, action)
            for index, group in enumerate(self.groups)
            for held, action in group.held()
            if held is param
        ]

    def _of_value(self, value: Node) -> list[tuple[int, Action]]:
        return [
            (index, group.region.actions[value])
            for index, group in enumerate(self.groups)
            if value in group.region.actions
        ]

    def _products(self, node: Node) -> list[_Term]:
        """The products of one op."""
        if node.op not in ops.OPS:
            return []
        match ops.OPS[node.op].law:
            case Recode():
                return []
            case ScaledDotProduct():
                query, keys = node.args[0], self._shape(node.args[1])[-2]
                first = self._term(query, self._of_value(query), keys)
                return [first, self._term(node, self._of_value(node), keys)]
            case Conv(transposed=transposed) if (weight := _weight(node)) is not None:
                moved = node.args[0] if transposed else node
                channels = self._shape(weight)[0]
                times = math.prod(self._shape(moved)) // channels
                return [self._term(weight, self._of_parameter(weight), times)]
            case Contract() if node.op == "linear" and (weight := _weight(node)) is not None:
                times = math.prod(self._shape(node)[:-1])
                return [self._term(weight, self._of_parameter(weight), times)]
            case Contract() if len(node.args) > 1 and isinstance(node.args[1], Node):
                result = self._term(node, self._of_value(node))
                summed = self._term(node.args[0], self._of_value(node.args[0])).axes[-1]
                return [_Term([*result.axes, summed])]
            case _:
                return []

    def _shape(self, value: Node) -> list[int]:
        return [int(evaluate(size, self.sizes)) for size in value.shape]


def _is_form_of_state(param: Node) -> bool:
    return bool(param.users) and all(user.op == RECODE for user in param.users)


def _weight(node: Node) -> Node | None:
    """The parameter that a contraction applies."""
    weight = node.args[1] if len(node.args) > 1 else None
    return weight if isinstance(weight, Node) and weight.op == "param" else None


def _along(action: Action) -> dict[int, torch.Tensor]:
    """The labels that stand in each row of the axes that hold channels, ``[rows, others]``."""
    labels = action.labels.long()
    return {axis: labels.movedim(axis, 0).reshape(labels.shape[axis], -1) for axis in action.axes}
