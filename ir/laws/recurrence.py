"""The law of what steps through time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .core import DIAGONAL, OUT, Action, Call, Flow, Kind, Law, Stop, compact, is_param

_GATES, _WEIGHT, _BIAS = (0,), (1,), (2,)


@dataclass(frozen=True)
class Recurrence(Law):
    """``h[t] = f(x[t] + W h[t - 1] + b, h[t - 1])``, where f looks at each unit by itself.

    The units may change places: the blocks of all gates alike, the rows and the columns of W, and
    the states before the first step. Where f is odd in the blocks of some gates together with the
    states, a unit may change its sign there; where f is homogeneous it may be scaled.

    Attributes:
        gates: How many blocks x has.
        kinds: What passes.
        odd: The blocks that take a change of sign or of scale.
    """

    gates: int
    kinds: frozenset[Kind]
    odd: tuple[int, ...]

    def passes(self, kind: Kind) -> bool:
        return kind in self.kinds

    def flow(self, call: Call) -> Sequence[Flow]:
        if call.kind not in self.kinds:
            raise Stop(f"the functions of the gates take no {call.kind.value}")
        if not is_param(call, _WEIGHT):
            raise Stop("its weight is no parameter")
        units = self._units(call)
        rows = self._blocks(call.kind, units.labels)
        columns = units if call.kind is Kind.PERMUTATION else units.inverse()
        states = {port: units for port in call.shapes if port == OUT or port[0] > _BIAS[0]}
        gates = {port: Action(rows, units.power) for port in (_GATES, _BIAS) if port in call.shapes}
        ports = {**states, **gates, _WEIGHT: Action(rows[:, None], units.power)}
        ports = {port: _shaped(a, len(call.shapes[port])) for port, a in ports.items()}
        cells = [] if call.kind in DIAGONAL else call.held(units, "it steps through")
        return [Flow(ports, also={_WEIGHT: _shaped(columns, 2)}, cells=cells)]

    def _units(self, call: Call) -> Action:
        """The labels ``[H]`` of the units, read off whatever port is known."""
        width = call.shapes[_WEIGHT][1]
        states = [port for port in call.known if port == OUT or port[0] > _BIAS[0]]
        port = next(iter(states), _GATES)
        action = call.known[port]
        if not set(action.axes) <= {-1}:
            raise Stop("the labels vary over more than the units")
        if states:
            return Action(action.labels.flatten().expand(width), action.power)
        blocks = action.labels.flatten().reshape(self.gates, width)
        alike = bool((blocks == blocks[0]).all())
        if call.kind is Kind.PERMUTATION and not alike:
            raise Stop("the gates of a unit change places together")
        return Action(blocks[self.odd[0]], action.power)

    def _blocks(self, kind: Kind, units: torch.Tensor) -> torch.Tensor:
        """The labels ``[G H]`` of the gates."""
        still = torch.full_like(units, -1)
        moved = range(self.gates) if kind is Kind.PERMUTATION else self.odd
        return torch.cat([units if gate in moved else still for gate in range(self.gates)])


def _shaped(action: Action, rank: int) -> Action:
    """The same labels with axes of size 1 before them."""
    labels = action.labels
    return Action(
        compact(labels.reshape(*[1] * (rank - labels.dim()), *labels.shape)), action.power
    )
