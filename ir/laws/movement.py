"""The law of ops that move positions and keep values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
        from ..ops import call as run

        operand = tuple(parts) if isinstance(call.args[0], tuple) else parts[0]
        attrs = {key: value for key, value in call.attrs.items() if key != "memory_format"}
        return run(call.node.op, (operand, *call.args[1:]), attrs)

    def _back(self, call: Call, out: Action) -> Flow:
        """Where each position came from, found by moving the positions' numbers."""
        ports = {OUT: out}
        start = 0
        numbers: list[torch.Tensor] = []
        for port in call.operands:
            shape = call.shapes[port]
            count = 1
            for size in shape:
                count *= size
            numbers.append(torch.arange(start, start + count, dtype=torch.int32).reshape(shape))
            start += count
        source = self._run(call, numbers)
        labels = torch.full((start,), -1, dtype=torch.int32)
        spread = out.labels.expand(source.shape)
        labels[source.flatten().long()] = spread.flatten()
        if not torch.equal(labels[source.flatten().long()], spread.flatten()):
            raise Stop("one value is repeated into several channels")
        begin = 0
        cells: list[torch.Tensor] = []
        for port, number in zip(call.operands, numbers, strict=True):
            part = labels[begin : begin + number.numel()].reshape(number.shape)
            begin += number.numel()
            if bool((part >= 0).any()):
                ports[port] = Action(compact(part), out.power)
                cells += _part(call, part)
        return Flow(ports, cells=cells)


def _part(call: Call, labels: torch.Tensor) -> list[torch.Tensor]:
    """Where only some of the coordinates go one way, what mixes them must keep them together."""
    if call.kind not in MIXING:
        return []
    held = labels.unique()
    held = held[held >= 0]
    return [held[None]] if held.numel() < call.size else []
