"""The law of convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .core import (
    DIAGONAL,
    OUT,
    Action,
    Call,
    Flow,
    Kind,
    Law,
    Port,
    Stop,
    colours,
    compact,
    joined,
)


@dataclass(frozen=True)
class Conv(Law):
    """A convolution ``x[b, i, *], w[o, i/groups, *] -> y[b, o, *]``; channels are indices.

    ``transposed``: the weight is ``w[i, o/groups, *]``, and where the result's border is made of
    fewer products a shift of the input is no shift of the result.
    """

    transposed: bool = False

    def passes(self, kind: Kind) -> bool:
        return True

    def flow(self, call: Call) -> Sequence[Flow]:
        rank = len(call.shapes[OUT])
        if len(call.shapes[(1,)]) != rank:
            raise Stop("a convolution without a batch axis")
        if self.transposed and call.attrs.get("groups", 1) != 1:
            raise Stop("a transposed convolution in groups")
        data = {port: action for port, action in call.known.items() if port in ((0,), OUT)}
        if any(action.axes != (1 - rank,) for action in data.values()):
            return [self._beside(call, list(data.values()))]
        if call.kind is Kind.PERMUTATION and len(data) > 1 and self._is_depthwise(call):
            data = dict.fromkeys(data, joined(call.kind, list(data.values())))
        merged = Flow()
        for port, action in data.items():
            labels = action.labels.flatten()
            flow = (self._write if port == OUT else self._read)(call, action, labels)
            for place, other in flow.ports.items():
                old = merged.ports.setdefault(place, other)
                if old.same(other):
                    continue
                if place != (1,) or old.axes == other.axes:
                    raise Stop("the input's and the result's channels are acted on at once")
                merged.also[place] = other
            merged.through |= flow.through
            merged.cells += flow.cells
        return [merged]

    def _beside(self, call: Call, actions: list[Action]) -> Flow:
        """Labels along axes on which the kernel is one wide, and channels that do not mix."""
        rank, apart = len(call.shapes[OUT]), self._is_depthwise(call)
        for here in {axis % rank for action in actions for axis in action.axes}:
            passes = apart if here == 1 else here == 0 or self._slides_not(call, here - 2)
            if not passes:
                raise Stop("the labels vary over more than the channels")
        if call.kind is Kind.SHIFT or ((2,) in call.shapes and call.kind is not Kind.PERMUTATION):
            raise Stop(f"its bias does not take a {call.kind.value} along other axes")
        action = joined(call.kind, actions)
        cells = [] if call.kind in DIAGONAL else call.within(action, (1,))
        return Flow({(0,): action, OUT: action}, cells=cells)

    @staticmethod
    def _is_depthwise(call: Call) -> bool:
        """Whether each channel of the result is made of its own channel of the input alone."""
        shape = call.shapes[(1,)]
        return shape[0] == call.attrs.get("groups", 1) and shape[1] == 1

    @staticmethod
    def _slides_not(call: Call, axis: int) -> bool:
        """Whether the kernel is one wide along a spatial axis, and takes each place once."""

        def at(name: str, default: int) -> Any:
            value = call.attrs.get(name, default)
            return value[axis if len(value) > 1 else 0] if isinstance(value, tuple) else value

        one = call.shapes[(1,)][axis + 2] == 1 and at("stride", 1) == 1
        return one and at("padding", 0) in (0, "valid", "same") and at("output_padding", 0) == 0

    def _write(self, call: Call, action: Action, labels: torch.Tensor) -> Flow:
        if call.kind is Kind.SHIFT:
            return Flow({OUT: action, (2,): Action(labels, action.power)})
        groups, shape = call.attrs.get("groups", 1), call.shapes[(1,)]
        ports = {OUT: action, **self._taken(call, labels, action.power)}
        cells: list[torch.Tensor] = []
        if call.kind not in DIAGONAL and groups != 1:
            if call.kind is Kind.CENTRE:
                raise Stop("a grouped convolution's results are made of other inputs each")
            by_group = labels.reshape(groups, -1)
            whole = bool((by_group == by_group[:, :1]).all())
            if not whole:
                cells += self._in_groups(call, labels, groups)
            elif call.kind is Kind.PERMUTATION:  # a group's inputs move with all its results
                spread = by_group[:, 0].repeat_interleave(shape[1])
                ports[(0,)] = Action(self._along(spread, shape, 1), action.power)
            else:
                raise Stop(f"each group gives one channel, so it takes no {call.kind.value}")
        return Flow(ports, cells=cells)

    def _taken(self, call: Call, labels: torch.Tensor, power: int) -> dict[Port, Action]:
        """What weight and bias take up of an action on the result's channels."""
        rows = self._along(labels, call.shapes[(1,)], 1 if self.transposed else 0)
        bias = {(2,): Action(labels, power)} if (2,) in call.shapes else {}
        return {(1,): Action(rows, power), **bias}

    def _read(self, call: Call, action: Action, labels: torch.Tensor) -> Flow:
        if call.kind is Kind.CENTRE:
            raise Stop("it reads the value without a norm that would take out the mean")
        groups = call.attrs.get("groups", 1)
        shape = call.shapes[(1,)]
        if call.kind is Kind.SHIFT:
            if self.transposed:
                raise Stop("the border of a transposed convolution is made of fewer products")
            padding = call.attrs.get("padding", (0,))
            if any(padding) if isinstance(padding, tuple) else padding not in (0, "valid"):
                raise Stop("the convolution pads with zeros, which a shift would have to move too")
            return Flow({(0,): action}, {(0,): action})
        power = action.power if call.kind is Kind.PERMUTATION else -action.power
        if groups == 1:
            cells = [] if call.kind in DIAGONAL else call.held(action, "it reads")
            weight = self._along(labels, shape, 0 if self.transposed else 1)
            return Flow({(0,): action, (1,): Action(weight, power)}, cells=cells)
        if call.kind not in DIAGONAL and labels.numel() == groups:
            if call.kind is not Kind.PERMUTATION:
                raise Stop(f"each group has one channel, so it takes no {call.kind.value}")
            spread = labels.repeat_interleave(shape[0] // groups)  # a channel's results move too
            result = Action(self._along(spread, shape, 1), action.power)
            return Flow({(0,): action, OUT: result, **self._taken(call, spread, action.power)})
        by_group = labels.reshape(groups, -1)  # (groups, I / groups)
        rows = by_group.repeat_interleave(shape[0] // groups, dim=0)  # (O, I / groups)
        weight = compact(rows.reshape(*rows.shape, *[1] * (len(shape) - 2)))
        cells = [] if call.kind in DIAGONAL else self._in_groups(call, labels, groups)
        return Flow({(0,): action, (1,): Action(weight, power)}, cells=cells)

    @staticmethod
    def _in_groups(call: Call, labels: torch.Tensor, groups: int) -> list[torch.Tensor]:
        """The cells of channels that must keep to their group."""
        group = torch.arange(groups).repeat_interleave(labels.numel() // groups)
        return [colours(labels, group, call.size)]

    @staticmethod
    def _along(labels: torch.Tensor, shape: tuple[int, ...], axis: int) -> torch.Tensor:
        return labels.reshape([-1 if i == axis else 1 for i in range(len(shape))])
