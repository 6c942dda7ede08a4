"""The law of ops that move positions and keep values."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .core import MIXING, OUT, Action, Call, Flow, Kind, Law, Port, Stop, compact


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
            return [self._back(call, call.known[OUT])]
        power = next(iter(call.known.values())).power
        if any(action.power != power for action in call.known.values()):
            raise Stop("its operands are scaled opposite ways")
        parts = [self._labels(call, port) for port in call.operands]
        moved = compact(self._run(call, parts))
        return [Flow({**call.known, OUT: Action(moved, power)}, cells=_part(call, moved))]

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
        if not torch.equal(labels[source], spread):
            raise Stop("one value is repeated into several channels")
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
                    part = _filled(part)
                ports[port] = Action(compact(part), out.power)
                cells += _part(call, part)
        return Flow(ports, cells=cells)


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


def _filled(labels: torch.Tensor) -> torch.Tensor:
    """Labels extended over what nobody reads, along the axes on which they do not vary."""
    for axis in range(labels.dim()):
        whole = labels.amax(axis, keepdim=True).expand(labels.shape)
        if bool(((labels == whole) | (labels < 0)).all()):
            labels = whole
    return labels


def _part(call: Call, labels: torch.Tensor) -> list[torch.Tensor]:
    """Where only some of the coordinates go one way, what mixes them must keep them together."""
    if call.kind not in MIXING:
        return []
    held = labels.unique()
    held = held[held >= 0]
    return [held[None]] if held.numel() < call.size else []
