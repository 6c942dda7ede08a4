"""Make a class of channels narrower: a permutation with coordinates dropped.

What a permutation may exchange can also be left out. ``drop`` takes coordinates out of every
parameter and every value that holds them, so the graph becomes smaller; ``mask`` leaves the graph
as it is, with zeros in all places of the parameters that hold them. Both compute the same, so what
a cut costs is known before it is made.

They do where nothing counts what is gone:

- A product with parameters, summed over the channels: the zeros of the mask add nothing.
- A product of two values, or a sum of one, if what is dropped is zero there. A value is, if what
  writes it is masked, and all on the way keeps zero at zero.
- An RMSNorm over n channels of which m are left, where the others are zero:
  x / sqrt(S / n + eps) w = x / sqrt(S / m + eps n / m) w sqrt(n / m), with S the sum of squares.

All else (the mean of a LayerNorm, a softmax over the channels) is refused, by the node that counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch

from .. import ops
from ..errors import GraphError
from ..graph import Graph, Node
from ..infer import infer, sample
from ..laws import (
    Action,
    Add,
    Along,
    BatchNorm,
    Contract,
    Conv,
    Elementwise,
    Embedding,
    Fill,
    Gather,
    Kind,
    Lookup,
    Movement,
    Mul,
    Normalize,
    Port,
    Reduce,
    ScaledDotProduct,
    Softmax,
)
from .apply import Untied, change_parameters
from .region import Blocked, Edit, Refused, Region, operand, operands
from .tensors import spread

# Which positions stay along each axis that loses some; axes are counted from the end.
Kept: TypeAlias = dict[int, torch.Tensor]


def mask(graph: Graph, region: Region, kept: torch.Tensor) -> list[Untied]:
    """Put zeros in all places of the parameters that hold a dropped coordinate, in place.

    Args:
        region: Of a permutation, found on this very graph.
        kept: ``[size]``, booleans.

    Raises:
        GraphError: The region has ops inserted, or divides by a parameter.
    """
    _check_region(region)
    factor = kept.to(torch.float64)
    return change_parameters(
        graph, region, lambda old, edit: old * spread(edit.action, factor, 1.0).to(old.dtype)
    )


def drop(graph: Graph, region: Region, kept: torch.Tensor) -> list[Untied]:
    """Take all other coordinates out of the graph, in place; see the top of this file.

    Args and errors are those of ``mask``; further errors: what is left of a value is no block of
    whole rows, or a node counts what is gone.
    """
    try:
        plan = _Plan(graph, region, kept)
        plan.make()
    except Refused as refused:
        blocked = refused.blocked
        raise GraphError(f"cannot drop: {blocked}", where=blocked.node.at) from None
    return plan.carry_out()


def units(graph: Graph, region: Region) -> list[torch.Tensor]:
    """The ways to cut a class: for each, the unit that every coordinate belongs to, ``[size]``.

    Units are dropped as wholes. Where heads share an axis of a weight, one way is by heads, another
    by the channels that have the same place in each. The finest come first.
    """
    found: list[torch.Tensor] = []
    for candidate in _partitions(region):
        if any(torch.equal(candidate, other) for other in found) or candidate.max() == 0:
            continue
        try:
            for gone in {(0,), (int(candidate.max()),), (0, int(candidate.max()))}:
                kept = ~torch.isin(candidate, torch.tensor(gone))
                if bool(kept.any()):
                    _Plan(graph, region, kept).make()
        except (Refused, GraphError):
            continue
        found.append(candidate)
    return sorted(found, key=lambda unit: -int(unit.max()))


def _partitions(region: Region) -> list[torch.Tensor]:
    """Each coordinate alone, and by its place along each axis of the values that have several."""
    found = [torch.arange(region.size)]
    actions = [*region.actions.values(), *(edit.action for edit in region.edits.values())]
    for labels in {id(a.labels): a.labels for a in actions if len(a.axes) > 1}.values():
        for axis in range(labels.dim()):
            if labels.shape[axis] > 1:
                found.append(_by_place(labels, axis, region.size))
    return found


def _by_place(labels: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """A unit for each place along an axis; places that share a coordinate are one."""
    unit = torch.arange(size)
    for row in labels.movedim(axis, 0).flatten(1).long():
        held = row[row >= 0]
        if held.numel():
            unit[torch.isin(unit, unit[held])] = unit[held].min()
    return unit.unique(return_inverse=True)[1]


def _check_region(region: Region) -> None:
    if region.kind is not Kind.PERMUTATION:
        raise GraphError(
            f"a region of kind {region.kind.value}: only permutations drop coordinates"
        )
    if region.inserted or region.restores or region.centered:
        raise GraphError("an op would have to give back what is dropped", where=region.value.at)
    for edit in region.edits.values():
        if edit.node.op == "div" and edit.port == (1,):
            raise GraphError("it divides by what would be zero", where=edit.node.at)


class _Plan:
    """What becomes of every node that reads or holds a dropped coordinate."""

    def __init__(self, graph: Graph, region: Region, kept: torch.Tensor) -> None:
        _check_region(region)
        if kept.shape != (region.size,) or kept.dtype != torch.bool or not bool(kept.any()):
            raise GraphError(f"kept must be {region.size} booleans, not all of them false")
        self.graph, self.region, self.kept = graph, region, kept
        self.point = {name: max(low, 2) for name, (low, _) in graph.symbols.items()}
        self.known: dict[Action, Kept] = {}
        self.left = {node: self._left(node, a) for node, a in region.actions.items()}
        self.attrs: dict[Node, dict[str, Any]] = {}
        self.factors: dict[Node, float] = {}  # of the weights of norms
        self.zero: dict[Node, bool] = {}  # whether a value is zero where it is dropped, once masked

    # -- making ---------------------------------------------------------------------------------

    def make(self) -> None:
        """Find what every node becomes; raises ``Refused``."""
        for edit in self.region.edits.values():
            self._left(edit.node, edit.action)
        for node in self.graph.nodes:
            before = self._before(node)
            if before or node in self.left:
                self._need_no_count(node, before)
                self.attrs[node] = {**node.attrs, **self._changes(node, before)}
                if isinstance(ops.get(node.op).law, Movement):
                    self._need_same_move(node)

    def _left(self, node: Node, action: Action) -> Kept:
        """What is left along each axis that loses anything: whole rows, or it is refused."""
        if action not in self.known:
            self.known[action] = self._whole_rows(node, action)
        return self.known[action]

    def _whole_rows(self, node: Node, action: Action) -> Kept:
        here = spread(action, self.kept.to(torch.int8), 1).bool()
        left: Kept = {}
        product = torch.ones((), dtype=torch.bool)
        for axis in action.axes:
            others = [i for i in range(here.dim()) if i != here.dim() + axis]
            along = here.any(dim=others) if others else here
            if not bool(along.all()):
                left[axis] = along
            product = product & along.reshape(-1, *[1] * (-axis - 1))
        if not torch.equal(product.expand_as(here), here):
            raise Refused(Blocked(node, "what is left here would be no block of whole rows"))
        return left

    def _before(self, node: Node) -> dict[Port, Kept]:
        found = {port: self._held(node, port, value) for port, value in operands(node).items()}
        return {port: self._left(node, action) for port, action in found.items() if action}

    def _held(self, node: Node, port: Port, value: Node) -> Action | None:
        """What a value at an operand holds; a parameter, as this reader takes it."""
        if value.op != "param":
            return self.region.actions.get(value)
        return next(iter(self.region.actions_of(node, port)), None)

    def _changes(self, node: Node, before: Mapping[Port, Kept]) -> dict[str, Any]:
        """The attributes that hold a size, a place or a count of the channels."""
        after = self.left.get(node, {})
        match node.op:
            case "reshape" | "expand" | "full" | "zeros" | "ones":
                key = "shape" if "shape" in node.attrs else "size"
                sizes = list(node.attrs[key])
                for axis, left in after.items():
                    sizes[axis] = sizes[axis] if sizes[axis] == -1 else int(left.sum())
                return {key: tuple(sizes)}
            case "slice" | "select":
                axis = node.attrs["dim"] % len(node.args[0].shape) - len(node.args[0].shape)
                left = before[(0,)].get(axis)
                keys = [key for key in ("start", "end", "index") if key in node.attrs]
                if left is None:
                    return {}
                return {key: int(left[: node.attrs[key]].sum()) for key in keys}
            case "layer_norm" | "rms_norm" if -1 in after:
                return {"normalized_shape": (int(after[-1].sum()),), **self._eps(node, after[-1])}
            case "group_norm":
                return {"num_groups": self._groups(node, [after], node.attrs["num_groups"])}
            case "scaled_dot_product_attention" if -1 in before.get((0,), {}):
                size = self._shape(node.args[0])[-1]
                return {"scale": node.attrs.get("scale") or 1 / math.sqrt(size)}
            case "conv1d" | "conv2d" | "conv3d" if node.attrs.get("groups", 1) > 1:
                sides = [before.get((0,), {}), after]
                return {"groups": self._groups(node, sides, node.attrs["groups"])}
            case _:
                return {}

    def _eps(self, node: Node, left: torch.Tensor) -> dict[str, Any]:
        if node.op != "rms_norm":
            return {}
        ratio = left.numel() / int(left.sum())
        self.factors[node] = math.sqrt(ratio)
        return {"eps": (node.attrs.get("eps") or torch.finfo(node.dtype).eps) * ratio}

    def _groups(self, node: Node, sides: list[Kept], groups: int) -> int:
        """How many groups are left, of which each has as many channels as the others."""
        whole: list[torch.Tensor] = []
        for side in sides:
            for left in side.values():
                counts = left.reshape(groups, -1).sum(1)
                if counts[counts > 0].unique().numel() != 1:
                    raise Refused(Blocked(node, "its groups would be of different sizes"))
                whole.append(counts > 0)
        if any(not torch.equal(some, whole[0]) for some in whole):
            raise Refused(Blocked(node, "other groups would be left of its input than its result"))
        return int(whole[0].sum())

    def _need_same_move(self, node: Node) -> None:
        """Each coordinate that is left must come to stand where it does now."""
        parts = tuple(
            self._labels(value, self._held(node, port, value))
            for port, value in operands(node).items()
        )
        many = isinstance(node.args[0], tuple)
        attrs = {key: sample(value, self.point) for key, value in self.attrs[node].items()}
        rest = tuple(sample(arg, self.point) for arg in node.args[1:])
        moved = ops.call(node.op, (parts if many else parts[0], *rest), attrs)
        wanted = self._labels(node, self.region.actions.get(node))
        if moved.shape != wanted.shape or not torch.equal(moved, wanted):
            raise Refused(Blocked(node, "it would move the channels to other places"))

    def _labels(self, value: Node, action: Action | None) -> torch.Tensor:
        """The coordinates in a value once it is narrowed."""
        shape = self._shape(value)
        if action is None:
            return torch.full((1,), -1).expand(shape)
        labels = action.labels.long().expand(shape)
        for axis, kept in self._left(value, action).items():
            labels = labels.index_select(axis, torch.nonzero(kept).flatten())
        return labels

    # -- what counts ----------------------------------------------------------------------------

    def _need_no_count(self, node: Node, before: Mapping[Port, Kept]) -> None:
        def stop(reason: str) -> None:
            raise Refused(Blocked(node, reason))

        law = ops.get(node.op).law
        summed: dict[Port, int] = {}
        match law:
            case Normalize(centres=True, grouped=False) if -1 in before.get((0,), {}):
                stop("its mean is over the channels; centre them first")
            case Normalize(grouped=True) if before.get((0,)):
                groups = node.attrs["num_groups"]
                (left,) = before[(0,)].values()
                by_group = left.reshape(groups, -1)
                if not torch.equal(by_group.any(1), by_group.all(1)):
                    stop("its mean is over the channels of a group")
            case Normalize(centres=False, grouped=False) if -1 in before.get((0,), {}):
                if not self._is_zero(node.args[0]):
                    stop("its mean is over the channels, and what is dropped is not zero there")
            case Softmax() if self._axis(node) in before.get((0,), {}):
                stop("what is dropped has a part in the sum")
            case Reduce() if node not in self.left and before.get((0,)):
                if node.op != "sum" or not self._is_zero(node.args[0]):
                    stop(f"{node.op} runs over the channels")
            case ScaledDotProduct():
                sides = [*(before.get((i,), {}) for i in range(3)), self.left.get(node, {})]
                bias = operand(node, (3,))
                if bias is not None and math.prod(self._shape(bias)[-3:-2]) > 1:
                    sides.append(before.get((3,), {}))  # it differs between heads
                if len({-3 in side for side in sides}) > 1:
                    stop("whole heads would be left out of a part of its operands")
                summed = {(0,): -1, (1,): -1}
            case Contract():
                summed = {(0,): -1, (1,): -1 if node.op == "linear" else -2}
            case _:
                return
        factors = [operand(node, port) for port in summed]
        if any(axis in before.get(port, {}) for port, axis in summed.items()):
            if not any(n is None or n.op == "param" or self._is_zero(n) for n in factors):
                stop("what is dropped is zero in neither factor")

    def _axis(self, node: Node) -> int:
        rank = len(self._shape(node.args[0]))
        return node.attrs["dim"] % rank - rank

    def _is_zero(self, node: Node) -> bool:
        """Whether a value holds zeros where it holds dropped coordinates, once masked."""
        if node not in self.region.actions:
            return False
        if node not in self.zero:
            self.zero[node] = self._gives_zero(node)
        return self.zero[node]

    def _gives_zero(self, node: Node) -> bool:
        held = {
            port: bool(self.region.actions_of(node, port)) if n.op == "param" else self._is_zero(n)
            for port, n in operands(node).items()
            if n.op == "param" or n in self.region.actions
        }
        match ops.get(node.op).law:
            case Contract() | Conv() | Normalize() | BatchNorm():
                added = held.get((2,), True)  # a bias is dropped with the rest
                return added and (held.get((0,), False) or held.get((1,), False))
            case Embedding():
                return held.get((0,), False)
            case Mul():
                return held.get((0,), False) or (node.op == "mul" and held.get((1,), False))
            case ScaledDotProduct():
                return held.get((2,), False)
            case Add():
                numbers = [arg for arg in node.args if not isinstance(arg, Node)]
                return len(held) + len(numbers) == 2 and all(held.values()) and not any(numbers)
            case Elementwise():
                zero = torch.zeros((), dtype=node.dtype)
                return held.get((0,), False) and not bool(ops.call(node.op, (zero,), node.attrs))
            case Movement() | Reduce() | Along() | Lookup() | Gather():
                return all(held.values())
            case Fill():
                return not node.attrs.get("fill_value", 0 if "zeros" in node.op else 1)
            case _:
                return False

    def _shape(self, node: Node) -> tuple[int, ...]:
        return tuple(sample(node, self.point).shape)

    # -- carrying out ---------------------------------------------------------------------------

    def carry_out(self) -> list[Untied]:
        """Change the parameters and the nodes, in order, and see that each fits the next."""

        def narrowed(value: torch.Tensor, edit: Edit) -> torch.Tensor:
            here = self._left(self.region.value, edit.action)
            for axis, left in here.items():
                value = value.index_select(axis, torch.nonzero(left).flatten())
            return value.contiguous()

        untied = change_parameters(self.graph, self.region, narrowed)
        for node, factor in self.factors.items():
            weight = node.operand(1)
            size = self.attrs[node]["normalized_shape"]
            old = torch.ones(size, dtype=node.dtype) if weight is None else self.graph.value(weight)
            self.graph.give(node, 1, old * factor, name=f"{node.name}_weight")
        for node in self.graph.nodes:
            if node not in self.attrs:
                continue
            node.set(attrs=self.attrs[node])
            wanted = list(node.shape)
            for axis, left in self.left.get(node, {}).items():
                wanted[axis] = int(left.sum())
            node.type = infer(self.graph, node.op, node.args, node.attrs)
            if list(node.shape) != wanted:
                raise GraphError(f"dropping gives {node.name} the shape {wanted}", where=node.at)
        return untied
