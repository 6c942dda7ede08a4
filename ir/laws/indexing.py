"""Laws of look-ups: rows are chosen, replaced or added to by an index; channels stay channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .core import DIAGONAL, OUT, Action, Call, Flow, Kind, Law, Port, Stop, joined

if TYPE_CHECKING:
    from ..graph import Node


@dataclass(frozen=True)
class Lookup(Law):
    """``index`` and ``index_select``: an axis that is not indexed passes as it is."""

    def passes(self, kind: Kind) -> bool:
        return True

    def flow(self, call: Call) -> Sequence[Flow]:
        to_result = _axes_of_lookup(call)
        if OUT in call.known:
            back = {there: here for here, there in to_result.items()}
            found = _moved(call, call.known[OUT], back, call.shapes[(0,)])
            return [Flow({(0,): found, OUT: call.known[OUT]})]
        action = call.known.get((0,))
        if action is None:
            raise Stop("an index is acted on")
        return [Flow({(0,): action, OUT: _moved(call, action, to_result, call.shapes[OUT])})]


@dataclass(frozen=True)
class Update(Law):
    """``index_add``, ``index_put``, ``scatter``: rows are replaced by, or take, those of a source.

    What the value takes the source takes too, but for a shift where rows are added.
    """

    source: int
    dense: bool = True  # whether whole rows are meant, not single elements

    def passes(self, kind: Kind) -> bool:
        return self.dense or kind in DIAGONAL

    def flow(self, call: Call) -> Sequence[Flow]:
        if not self.passes(call.kind):
            raise Stop(f"a {call.kind.value} does not pass {call.node.op}: its index may differ")
        port: Port = (self.source,)
        if port not in call.shapes:
            raise Stop("it puts a number in place of a value")
        rank = len(call.shapes[OUT])
        if self.source == 2 and call.node.op == "index_put":
            into = _axes_of_update(call)
        else:
            dim = int(call.attrs.get("dim", 0)) % rank
            into = {axis: axis for axis in range(rank) if axis != dim}
        if OUT in call.known or (0,) in call.known:
            whole = call.known[OUT] if OUT in call.known else call.known[(0,)]
            part = _moved(call, whole, into, call.shapes[port])
        else:
            part = call.known[port]
            back = {there: here for here, there in into.items()}
            whole = _moved(call, part, back, call.shapes[OUT])
        ports = {OUT: whole, (0,): whole, port: part}
        if call.kind is Kind.SHIFT and self._adds(call):
            if port in call.known:
                raise Stop("rows that are added are shifted as often as they are added")
            del ports[port]
        return [Flow(ports)]

    @staticmethod
    def _adds(call: Call) -> bool:
        return call.node.op == "index_add" or bool(call.attrs.get("accumulate", False))


@dataclass(frozen=True)
class MaskedScatter(Law):
    """``masked_scatter``: a source's rows take, one after the other, the places that a mask names,
    where the mask is the same all along the last axis."""

    def passes(self, kind: Kind) -> bool:
        return True

    def flow(self, call: Call) -> Sequence[Flow]:
        shapes = [call.shapes[port] for port in (OUT, (0,), (2,))]
        known = [action for port, action in call.known.items() if port != (1,)]
        mask = call.node.args[1]
        if len({shape[-1] for shape in shapes}) != 1 or not (
            call.shapes[(1,)][-1] == 1 or _same_along(mask, (-1,))
        ):
            raise Stop("its mask may cut a row")
        if not known or any(action.axes != (-1,) for action in known):
            raise Stop(f"{call.node.op} chooses among the channels")
        flat = [Action(action.labels.flatten(), action.power) for action in known]
        whole = joined(call.kind, flat)
        ports = [OUT, (0,), (2,)]
        return [
            Flow(
                {
                    port: Action(whole.labels.reshape([1] * (len(shape) - 1) + [-1]), whole.power)
                    for port, shape in zip(ports, shapes, strict=True)
                }
            )
        ]


@dataclass(frozen=True)
class Gather(Law):
    """``gather``: elements are chosen one by one along an axis; the index is permuted with them."""

    def passes(self, kind: Kind) -> bool:
        return kind in DIAGONAL or kind is Kind.PERMUTATION

    def flow(self, call: Call) -> Sequence[Flow]:
        if not self.passes(call.kind):
            raise Stop(f"a {call.kind.value} does not pass gather: its index may differ")
        known = [action for port, action in call.known.items() if port != (1,)]
        if not known:
            raise Stop("an index is acted on")
        action = joined(call.kind, known)
        rank = len(call.shapes[OUT])
        if int(call.attrs.get("dim", 0)) % rank in {axis % rank for axis in action.axes}:
            raise Stop("it chooses among the channels")
        if any(call.shapes[OUT][axis] != call.shapes[(0,)][axis] for axis in action.axes):
            raise Stop("it takes only some of the channels")
        ports: dict[Port, Action] = {(0,): action, OUT: action}
        if call.kind is Kind.PERMUTATION and not _same_along(call.node.args[1], action.axes):
            ports[(1,)] = action
        return [Flow(ports)]


@dataclass(frozen=True)
class Along(Law):
    """A linear map along one axis (a running sum): what varies along others passes."""

    def passes(self, kind: Kind) -> bool:
        return kind is not Kind.SHIFT

    def flow(self, call: Call) -> Sequence[Flow]:
        if call.kind is Kind.SHIFT:
            raise Stop(f"a shift does not pass {call.node.op}")
        action = joined(call.kind, list(call.known.values()))
        rank = len(call.shapes[OUT])
        if int(call.attrs["dim"]) % rank in {axis % rank for axis in action.axes}:
            raise Stop(f"{call.node.op} runs over the channels")
        return [Flow({(0,): action, OUT: action})]


@dataclass(frozen=True)
class Fourier(Law):
    """A discrete Fourier transform along some axes: a linear map along each of them."""

    def passes(self, kind: Kind) -> bool:
        return kind in (Kind.SCALE, Kind.SIGN, Kind.PERMUTATION)

    def flow(self, call: Call) -> Sequence[Flow]:
        if not self.passes(call.kind):
            raise Stop(f"a {call.kind.value} does not pass {call.node.op}")
        action = joined(call.kind, list(call.known.values()))
        rank = len(call.shapes[OUT])
        dims = call.attrs.get("dim")
        over = {int(dim) % rank for dim in dims} if dims else set(range(rank))
        if over & {axis % rank for axis in action.axes}:
            raise Stop(
                "each of its results is a sum over all channels with factors of its own: of the "
                "permutations only j -> a j mod n would pass"
            )
        return [Flow({(0,): action, OUT: action})]


@dataclass(frozen=True)
class Pad(Law):
    """Constants around a value, not between its channels; zeros, but for a permutation."""

    def passes(self, kind: Kind) -> bool:
        return kind is not Kind.SHIFT

    def flow(self, call: Call) -> Sequence[Flow]:
        action = next(iter(call.known.values()))
        if call.kind is Kind.SHIFT:
            raise Stop("it pads with a constant, which a shift would have to move too")
        if call.attrs.get("value") and call.kind is not Kind.PERMUTATION:
            raise Stop(f"it pads with a number, which a {call.kind.value} changes")
        pad = call.attrs["pad"]
        padded = {-1 - i // 2 for i, amount in enumerate(pad) if amount}
        if padded & set(action.axes):
            raise Stop("it pads the channels")
        return [Flow({(0,): action, OUT: action})]


@dataclass(frozen=True)
class Fill(Law):
    """One number everywhere: zero is what it was after any linear map."""

    def passes(self, kind: Kind) -> bool:
        return kind is not Kind.SHIFT

    def flow(self, call: Call) -> Sequence[Flow]:
        if OUT not in call.known:  # of what it is filled like, only the shape matters
            return [Flow()]
        value = call.attrs.get("fill_value", 0 if "zeros" in call.node.op else 1)
        if call.kind is Kind.SHIFT or (value != 0 and call.kind is not Kind.PERMUTATION):
            raise Stop(f"it is the same number in every channel, which a {call.kind.value} changes")
        return [Flow({OUT: call.known[OUT]})]


def _axes_of_lookup(call: Call) -> dict[int, int]:
    """For each axis of the operand that is not indexed, the result's."""
    rank = len(call.shapes[(0,)])
    if call.node.op == "index_select":
        dim = int(call.attrs["dim"]) % rank
        return {axis: axis for axis in range(rank) if axis != dim}
    places: list[int] = []
    width = axis = 0
    indices: tuple[Node | None, ...] = call.node.args[1]
    for index in indices:
        spans = 1
        if index is not None:
            mask = index.dtype is torch.bool  # stands for an index along each of its axes
            spans = len(index.shape) if mask else 1
            places += range(axis, axis + spans)
            width = max(width, 1 if mask else len(index.shape))
        axis += spans
    side_by_side = places == list(range(places[0], places[-1] + 1))
    start = places[0] if side_by_side else 0
    rest = [axis for axis in range(rank) if axis not in places]
    return {axis: i if i < start else i + width for i, axis in enumerate(rest)}


def _axes_of_update(call: Call) -> dict[int, int]:
    """The same for the rows that are put in, which may lack axes at the front."""
    found = _axes_of_lookup(call)
    indexed = len(call.shapes[(0,)]) - len(found)
    width = max(found.values(), default=-1) + 1 - len(found) if found else indexed
    missing = len(found) + width - len(call.shapes[(2,)])
    return {axis: place - missing for axis, place in found.items() if place >= missing}


def _moved(call: Call, action: Action, axes: dict[int, int], shape: tuple[int, ...]) -> Action:
    """An action on another value, its axes carried over."""
    labels = action.labels
    sizes = [1] * len(shape)
    for axis, size in enumerate(labels.shape):
        if size > 1:
            if axis not in axes or shape[axes[axis]] != size:
                raise Stop(f"{call.node.op} chooses among the channels")
            sizes[axes[axis]] = size
    kept = sorted((a for a in axes if labels.shape[a] > 1), key=lambda axis: axes[axis])
    others = [axis for axis in range(labels.dim()) if axis not in kept]
    return Action(labels.permute(*kept, *others).reshape(sizes), action.power)


def _same_along(index: Node, axes: tuple[int, ...]) -> bool:
    """Whether an index is known to be the same at all positions along these axes."""
    if index.op not in ("expand", "repeat"):
        return False
    shape = index.inputs[0].shape
    return all(len(shape) < -axis or shape[axis] == 1 for axis in axes)
