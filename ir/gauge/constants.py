"""Coordinates of a class that hold the same number whatever the data: from what writes them on.

    W x + c  with W_j = 0   ->   c_j   ->   relu(c_j)   ->   ...   ->   what reads coordinate j

A coordinate is **dead** where all that read it add up nothing of it, because their weights for it
are zero or it is; or no more than a constant, which a bias can take up. It can be left out, and the
function stays as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from .. import ops
from ..graph import Graph, Node
from ..laws import (
    Action,
    Add,
    BatchNorm,
    Contract,
    Conv,
    Elementwise,
    Embedding,
    GroupedContract,
    Movement,
    Mul,
    Normalize,
    Port,
    ScaledDotProduct,
)
from ..types import TensorType
from .region import Region, operand, operands
from .sites import CONTRACTIONS
from .tensors import bounds_of


@dataclass
class Dead:
    """What can go.

    Attributes:
        coordinates: ``bool[size]``.
        products: What each contraction that reads the region adds up of each coordinate, where
            that is a constant, ``float64[size, O]``.
    """

    coordinates: torch.Tensor
    products: dict[Node, torch.Tensor] = field(default_factory=dict[Node, torch.Tensor])

    def sums(self, gone: torch.Tensor) -> dict[Node, torch.Tensor]:
        """What contractions lose with some of the coordinates, and their biases are to add."""
        found = {node: parts[gone].sum(0) for node, parts in self.products.items()}
        return {node: part for node, part in found.items() if bool(part.any())}


def dead(graph: Graph, region: Region) -> Dead:
    """The coordinates of a permutation's region that nothing depends on."""
    constants, found = _Constants(graph, region), Dead(torch.ones(region.size, dtype=torch.bool))
    for node in graph.nodes:
        if node in region.actions:
            found.coordinates &= constants.uncounted(node)
        elif any(value in region.actions for value in node.inputs):
            found.coordinates &= constants.unread(node, found.products)
    if not region.actions.keys().isdisjoint(graph.output.inputs):
        found.coordinates[:] = False
    return found


class _Constants:
    """What values hold at each coordinate, ``float64[size]``; nan where that is no constant."""

    def __init__(self, graph: Graph, region: Region) -> None:
        self.graph, self.region = graph, region
        self.known: dict[Node, torch.Tensor] = {}

    # -- what counts ----------------------------------------------------------------------------

    def uncounted(self, node: Node) -> torch.Tensor:
        """Where an op that gives the coordinates does not mix one with the others."""
        match ops.get(node.op).law:
            case Elementwise() | Add() | Mul() | Movement() | Embedding() | BatchNorm():
                return self._all(True)
            case Contract() | Conv() | ScaledDotProduct():
                return self._nothing_summed(node) if self._sums(node) else self._all(True)
            case Normalize(grouped=False, centres=False):
                data: Node = node.args[0]
                action = self.region.actions[data]
                if -1 not in action.axes:
                    return self._all(True)
                return (self.of(data) == 0) | ~self._present(action)
            case _:
                return self._all(False)

    def unread(self, node: Node, products: dict[Node, torch.Tensor]) -> torch.Tensor:
        """Where an op that reads the coordinates, and gives none, adds up zeros or a constant.

        Args:
            products: Gets what a contraction adds up of each coordinate, ``[size, O]``.
        """
        match ops.get(node.op).law:
            case Contract() | Conv() if node.attrs.get("groups", 1) == 1:
                data, zero = self._at(node, (0,)), self._nothing_summed(node)
                if _takes_constants(node):
                    constant = data.isfinite() & ~zero
                    if bool(constant.any()):
                        products[node] = self._products(node, data)
                        zero |= constant
                return zero
            case ScaledDotProduct():
                return self._nothing_summed(node)
            case _:
                return self._all(False)

    def _sums(self, node: Node) -> bool:
        """Whether an op that gives the coordinates adds them up too, as in ``x + W x``."""
        read = {port: self.region.actions.get(value) for port, value in operands(node).items()}
        read = {port: action for port, action in read.items() if action is not None}
        match ops.get(node.op).law:
            case Contract() as law:
                return any(law.summed(port) in action.axes for port, action in read.items())
            case ScaledDotProduct():
                return any(-1 in action.axes for port, action in read.items() if port != (2,))
            case _:
                return any(not self._apart(node, action) for action in read.values())

    def _apart(self, node: Node, data: Action) -> bool:
        """Whether each result of a convolution is made of its own coordinate alone."""
        rank, groups = len(node.shape), node.attrs.get("groups", 1)
        if data.axes != (1 - rank,):
            return True
        sides = [a.labels.reshape(groups, -1) for a in (data, self.region.actions[node])]
        return bool(torch.cat([side == sides[0][:, :1] for side in sides], dim=1).all())

    def _nothing_summed(self, node: Node) -> torch.Tensor:
        """Where the products that an op adds up are zero."""
        if node.attrs.get("groups", 1) > 1:
            return self._all(False)
        return _product(self._at(node, (0,)), self._at(node, (1,))) == 0

    def _products(self, node: Node, data: torch.Tensor) -> torch.Tensor:
        """What a contraction adds up of each coordinate, if that is a constant."""
        action = self.region.actions_of(node, (1,))[0]
        weight = self.graph.value(node.args[1]).double()
        summed = weight.movedim(1, -1)
        summed = summed.flatten(1, -2).sum(1) if weight.dim() > 2 else summed  # [O, n]
        labels = action.labels.flatten().long()
        held = labels >= 0
        values = torch.where(held, data.nan_to_num(0.0)[labels], 0.0)
        sums = torch.zeros(len(data), len(weight), dtype=torch.float64)
        return sums.index_add_(0, labels[held], (summed * values).T[held])

    # -- what values hold -----------------------------------------------------------------------

    def of(self, value: Node) -> torch.Tensor:
        if value not in self.known:
            self.known[value] = self._given(value)
        return self.known[value]

    def _given(self, node: Node) -> torch.Tensor:
        known = node in self.region.actions and node.op in ops.OPS
        if not known or not isinstance(node.type, TensorType) or node.dtype.is_complex:
            return self._all(math.nan)
        match ops.get(node.op).law:
            case Contract() | Conv():
                product = _product(self._at(node, (0,)), self._at(node, (1,)))
                return self._biased(node, product == 0)
            case BatchNorm():
                still = (self._at(node, (0,)) == 0) & (self._at(node, (3,)) == 0)
                return self._biased(node, still | (self._at(node, (1,)) == 0))
            case Normalize():
                still = self._at(node, (0,)) == 0
                return self._biased(node, still | (self._at(node, (1,)) == 0))
            case Embedding():
                return self._at(node, (0,))
            case ScaledDotProduct():
                data = self._at(node, (2,))
                return data if self._sums_to_one(node) else torch.where(data == 0, 0.0, math.nan)
            case Mul() if node.op == "mul":
                return _product(self._at(node, (0,)), self._at(node, (1,)))
            case Add() if node.op in ("add", "sub") and node.attrs.get("alpha", 1) == 1:
                sign = 1 if node.op == "add" else -1
                return self._at(node, (0,)) + sign * self._at(node, (1,))
            case Elementwise() if set(node.inputs) <= {node.args[0]}:
                data = self._at(node, (0,))
                given = torch.where(data.isnan(), 0.0, data).to(node.args[0].dtype)
                with torch.no_grad():
                    found = ops.call(node.op, (given, *node.args[1:]), node.attrs)
                return torch.where(data.isnan(), math.nan, found.double())
            case Movement():
                return self._joined(node)
            case _:
                return self._all(math.nan)

    def _sums_to_one(self, node: Node) -> bool:
        """Whether each row of an attention has a place to look at: it gives zeros otherwise."""
        mask = operand(node, (3,))
        if mask is None:
            return True
        if mask.op != "param":
            return False
        value = self.graph.value(mask)
        seen = value if value.dtype == torch.bool else value > -math.inf
        return bool(seen.any(-1).all())

    def _biased(self, node: Node, zero: torch.Tensor) -> torch.Tensor:
        """What an op gives whose product is zero at some coordinates, and unknown elsewhere."""
        product = torch.where(zero, 0.0, math.nan).double()
        without = isinstance(ops.get(node.op).law, GroupedContract) or operand(node, (2,)) is None
        return product if without else product + self._at(node, (2,))

    def _joined(self, node: Node) -> torch.Tensor:
        """What a movement's operands hold between them, each coordinate in some."""
        found, known = self._all(math.nan), self._all(False)
        for port, part in operands(node).items():
            taken = self.region.actions_of(node, port)[:1] or [self.region.actions.get(part)]
            held, here = self._present(taken[0]), self._at(node, port)
            both = torch.where(found == here, here, math.nan)
            found = torch.where(held, torch.where(known, both, here), found)
            known |= held
        return found

    def _present(self, action: Action | None) -> torch.Tensor:
        """Which coordinates stand anywhere."""
        found = self._all(False)
        if action is not None:
            labels = action.labels.flatten().long()
            found[labels[labels >= 0]] = True
        return found

    def _at(self, node: Node, port: Port) -> torch.Tensor:
        """What an operand holds at each coordinate; a number holds itself everywhere."""
        value = operand(node, port)
        if value is None:
            number = node.operand(port[0])
            fixed = isinstance(number, int | float) and not isinstance(number, bool)
            return self._all(float(number) if fixed else math.nan)
        if value.op != "param":
            return self.of(value)
        actions, stored = self.region.actions_of(node, port), self.graph.value(value)
        if stored.is_complex():
            return self._all(math.nan)
        if not actions:
            return self._all(float(stored) if stored.numel() == 1 else math.nan)
        parts = [self._held(stored.double(), action) for action in actions]
        return torch.where(parts[0] == parts[-1], parts[0], math.nan)

    def _held(self, param: torch.Tensor, action: Action) -> torch.Tensor:
        low, high = bounds_of(param, action, self.region.size)
        return torch.where(low == high, low, math.nan)

    def _all(self, value: float | bool) -> torch.Tensor:
        dtype = torch.bool if isinstance(value, bool) else torch.float64
        return torch.full((self.region.size,), value, dtype=dtype)


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Products of which one factor may be unknown, but not infinite, where the other is zero."""
    zero = ((a == 0) & ~b.isinf()) | ((b == 0) & ~a.isinf())
    return torch.where(zero, 0.0, a * b)


def _takes_constants(node: Node) -> bool:
    """Whether the bias of a contraction with weights can take up what constants it reads add.

    What it reads must be all data: a padding's zeros are no constant's.
    """
    stored = [param for param in (operand(node, (1,)), operand(node, (2,))) if param is not None]
    if node.op not in CONTRACTIONS or any(param.op != "param" for param in stored):
        return False
    padding = node.attrs.get("padding", 0)
    parts = padding if isinstance(padding, tuple | list) else (padding,)
    return all(part in (0, "valid") for part in parts)
