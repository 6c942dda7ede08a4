"""The law of ops that move positions and keep values."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .core import MIXING, OUT, Action, Call, Flow, Kind, Law, Port, Stop, compact, filled, joined


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
        parts = [self._labels(call, port) for port in call.operands]
        moved = compact(self._run(call, parts))
        return [Flow({**call.known, OUT: Action(moved, power)}, cells=_part(call, moved))]

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

    def _labels(self, call: Call, port: Port) -> torch.Tensor:
        if port in call.known:
            return call.known[port].labels.expand(call.shapes[port])
        return torch.full((1,), -1, dtype=torch.int32).expand(call.shapes[port])

    def _run(self, call: Call, parts: list[torch.Tensor]) -> torch.Tensor:
        return _moved(_Move.of(call), tuple(parts))

    def _back(self, call: Call, out: Action) -> Flow:
        """Where each position came from, found by moving the positions' numbers."""
        ports = {OUT: out}
        shapes = [call.shapes[port] for port in call.operands]
        source, shape = _sources(_Move.of(call), tuple(shapes))
        labels = torch.full((sum(map(math.prod, shapes)),), -1, dtype=torch.int32)
        spread = out.labels.expand(shape).flatten()
        labels[source] = spread
        ties = self._repeated(call, labels[source], spread)
        begin = 0
        cells: list[torch.Tensor] = []
        for port, size in zip(call.operands, shapes, strict=True):
            part = labels[begin : begin + math.prod(size)].reshape(size)
            begin += math.prod(size)
            if bool((part >= 0).any()):
                # What is -1 in the result is there and stays as it is; what is -1 only here was
                # left out.
                whole = out.labels.numel() > 1 and not bool((out.labels < 0).any())
                if whole and _read_once(call, port):
                    part = filled(part)
                ports[port] = Action(compact(part), out.power)
                cells += _part(call, ports[port].labels)
        return Flow(ports, cells=cells, ties=ties)

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


def _read_once(call: Call, port: Port) -> bool:
    """Whether nobody else reads the operand, so that what this op leaves out nobody misses."""
    value = call.node.args[0]
    value = value[port[1]] if isinstance(value, tuple) else value
    return len(value.users) == 1


def _part(call: Call, labels: torch.Tensor) -> list[torch.Tensor]:
    """Where some coordinates go one way more often than others, what mixes them must keep those
    together that go the same ways."""
    return call.held(Action(labels), "it moves") if call.kind in MIXING else []
