"""The law of ops that move positions and keep values."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .core import (
    MIXING,
    OUT,
    Action,
    Call,
    Flow,
    Kind,
    Law,
    Port,
    Stop,
    compact,
    filled,
    interned,
    joined,
)


@dataclass(frozen=True)
class Movement(Law):
    """Positions change and values do not, so the labels move as the values do, whatever the group.

    ``whole`` says that some axis passes unchanged, so that the mean over it does.
    """

    whole: bool = True

    def passes(self, kind: Kind) -> bool:
        return self.whole or kind is not Kind.CENTRE

    def flow(self, call: Call) -> Sequence[Flow]:
        if OUT in call.known:
            flow = self._back(call, call.known[OUT])
            if call.kind not in MIXING or len(call.known) == 1:
                return [flow]
            return [self._both(call, flow)]
        power = next(iter(call.known.values())).power
        if any(action.power != power for action in call.known.values()):
            raise Stop("its operands are scaled opposite ways")
        parts = tuple(call.known.get(port) for port in call.operands)
        shapes = tuple(call.shapes[port] for port in call.operands)
        moved = _put_together(_Move.of(call), shapes, parts, power)
        return [Flow({**call.known, OUT: moved}, cells=_part(call, moved))]

    def _both(self, call: Call, back: Flow) -> Flow:
        """What is known on either side, where each may know places that the other does not."""
        ports = {port: action for port, action in call.known.items() if port != OUT}
        for port, action in back.ports.items():
            ports[port] = joined(call.kind, [action, ports[port]]) if port in ports else action
        there = replace(call, known={p: a for p, a in ports.items() if p != OUT})
        (forth,) = self.flow(there)
        return Flow(
            {**there.known, OUT: joined(call.kind, [call.known[OUT], forth.ports[OUT]])},
            cells=[*back.cells, *forth.cells],
            ties=back.ties,
        )

    def _back(self, call: Call, out: Action) -> Flow:
        """Where each position came from, found by moving the positions' numbers."""
        shapes = tuple(call.shapes[port] for port in call.operands)
        alone = tuple(_read_once(call, port) for port in call.operands)
        parts, taken, asked = _taken_apart(_Move.of(call), shapes, out, alone)
        ties = self._repeated(call, taken, asked)
        found = {p: a for p, a in zip(call.operands, parts, strict=True) if a is not None}
        cells = [cell for action in found.values() for cell in _part(call, action)]
        return Flow({OUT: out, **found}, cells=cells, ties=ties)

    @staticmethod
    def _repeated(
        call: Call, taken: torch.Tensor, asked: torch.Tensor
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The ties between channels that one value is repeated into."""
        if torch.equal(taken, asked):
            return []
        if call.kind is Kind.PERMUTATION and torch.equal(taken < 0, asked < 0):
            return [(taken, asked)]
        raise Stop("one value is repeated into several channels")


@dataclass(frozen=True)
class Parts(Law):
    """A value cut into a tuple of parts along one axis, and the choice of one part.

    The tuple has the action of each part, which is the value's: nothing varies along that axis.
    """

    cuts: bool

    def passes(self, kind: Kind) -> bool:
        return True

    def flow(self, call: Call) -> Sequence[Flow]:
        action = joined(call.kind, list(call.known.values()))
        if self.cuts and call.attrs.get("dim", 0) % action.labels.dim() in {
            axis % action.labels.dim() for axis in action.axes
        }:
            raise Stop("it cuts the channels into parts")
        return [Flow({(0,): action, OUT: action})]


@dataclass(frozen=True)
class _Move:
    """A movement of positions, whatever they hold; the layers of a model repeat a few of them."""

    op: str
    tuple_: bool  # whether the operands are one tuple
    args: tuple[Any, ...]
    attrs: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, call: Call) -> _Move:
        attrs = tuple((k, v) for k, v in sorted(call.attrs.items()) if k != "memory_format")
        return cls(call.node.op, isinstance(call.args[0], tuple), call.args[1:], attrs)


def _moved(move: _Move, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    from ..ops import call as run

    operand = parts if move.tuple_ else parts[0]
    return run(move.op, (operand, *move.args), dict(move.attrs))


@functools.lru_cache(maxsize=128)
def _sources(
    move: _Move, shapes: tuple[tuple[int, ...], ...]
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """For each position of the result, the number of the operands' position that it held; and the
    result's shape."""
    numbers = torch.arange(sum(map(math.prod, shapes)), dtype=torch.int32)
    parts = numbers.split([math.prod(shape) for shape in shapes])
    shaped = tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
    source = _moved(move, shaped)
    return source.flatten().long(), tuple(source.shape)


@functools.lru_cache(maxsize=256)
def _put_together(
    move: _Move,
    shapes: tuple[tuple[int, ...], ...],
    parts: tuple[Action | None, ...],
    power: int,
) -> Action:
    """What the result holds, of what the operands do."""
    untouched = torch.full((1,), -1, dtype=torch.int32)
    labels = [untouched if part is None else part.labels for part in parts]
    spread = tuple(some.expand(shape) for some, shape in zip(labels, shapes, strict=True))
    return interned(Action(compact(_moved(move, spread)), power))


@functools.lru_cache(maxsize=256)
def _taken_apart(
    move: _Move, shapes: tuple[tuple[int, ...], ...], out: Action, alone: tuple[bool, ...]
) -> tuple[tuple[Action | None, ...], torch.Tensor, torch.Tensor]:
    """What the operands hold, of what the result does; and what each position of the result then
    gets, beside what it asks for.

    Args:
        alone: Whether nobody else reads the operand, so that what is left out nobody misses.
    """
    source, shape = _sources(move, shapes)
    labels = torch.full((sum(map(math.prod, shapes)),), -1, dtype=torch.int32)
    asked = out.labels.expand(shape).flatten()
    labels[source] = asked
    taken = labels[source]
    # What is -1 in the result is there and stays as it is; what is -1 only here was left out.
    whole = out.labels.numel() > 1 and not bool((out.labels < 0).any())
    parts: list[Action | None] = []
    for part, size, only in zip(
        labels.split([*map(math.prod, shapes)]), shapes, alone, strict=True
    ):
        if not bool((part >= 0).any()):
            parts.append(None)
            continue
        found = part.reshape(size)
        found = filled(found) if whole and only else found
        parts.append(interned(Action(compact(found), out.power)))
    return tuple(parts), taken, asked


def _read_once(call: Call, port: Port) -> bool:
    """Whether nobody else reads the operand, so that what this op leaves out nobody misses."""
    value = call.node.args[0]
    value = value[port[1]] if isinstance(value, tuple) else value
    return len(value.users) == 1


def _part(call: Call, action: Action) -> list[torch.Tensor]:
    """Where some coordinates go one way more often than others, what mixes them must keep those
    together that go the same ways."""
    return call.held(action, "it moves") if call.kind in MIXING else []
