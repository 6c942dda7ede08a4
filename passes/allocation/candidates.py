"""What each choice makes of what it is chosen for: the quantized weights and values, simulated.

Weights are rounded to the nearest, with a short search for the ends of their range: enough to tell
choices apart. What quantization then does is better, for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ...ir import Graph, InputError, Node, astype
from ...ir.formats import Format, Parameters, Quantized, named
from ...ir.gauge import weighted
from ...ir.gauge.sites import CONTRACTIONS
from ...ir.interpret import Read, execute
from ..base import Context
from ..calibration import Observation, observe
from ..quantization.choices import CHANNELWISE, Choice
from ..quantization.simulated import fake_quantize, floats, squared_error
from ..quantization.solvers import rounded
from ..quantization.values import is_static
from ..quantization.weights import Channelwise, InFormat, Stored, fits
from .units import Unit, weight_of

CLIPS = (1.0, 0.92, 0.84, 0.76, 0.68, 0.6)  # of the range


@dataclass
class Candidates:
    """Units, and what each may choose.

    Attributes:
        graph: In single precision; nobody changes it.
        batches: To measure on.
        units: Of this graph.
        choices: Of all units; a unit may not have all.
        offered: ``bool[U, C]``: which it has.
    """

    graph: Graph
    context: Context
    units: list[Unit]
    choices: list[Choice]
    offered: torch.Tensor
    _stored: dict[tuple[str, str], Stored] = field(default_factory=dict[tuple[str, str], Stored])
    _errors: dict[tuple[str, str], Stored] = field(default_factory=dict[tuple[str, str], Stored])
    _seen: dict[str, Observation] = field(default_factory=dict[str, Observation])

    @classmethod
    def of(
        cls, graph: Graph, context: Context, units: Sequence[Unit], choices: Sequence[Choice]
    ) -> Candidates:
        """Offer every choice whose format fits; what none fits, int8 by the channel.

        Raises:
            InputError: There is nothing to choose for, or nothing to choose from.
        """
        if not units or not choices:
            raise InputError(
                "there is nothing to allocate bits to"
                if choices
                else "an allocation needs choices, and there is none",
                do="choices=('int4-g64-asym', 'int8-g64-asym'), for a graph with linear layers",
            )
        single = astype(graph, torch.float32)
        nodes = {node.name: node for node in single.nodes}
        own = [Unit(tuple(nodes[r.name] for r in unit.readers), unit.block) for unit in units]
        found = list(dict.fromkeys(choices))
        offered = torch.tensor([[_fit(single, unit, choice) for choice in found] for unit in own])
        if not bool((some := offered.any(1)).all()):
            for choice in dict.fromkeys(replace(c, weights=CHANNELWISE) for c in choices):
                found.append(choice)
                offered = torch.cat([offered, ~some[:, None]], 1)
        return cls(single, context, own, found, offered)

    def options(self, unit: int) -> Iterator[tuple[int, Choice]]:
        """The choices that a unit has, with their numbers."""
        for index, choice in enumerate(self.choices):
            if self.offered[unit, index]:
                yield index, choice

    def batches(self, who: str, most: int) -> list[Sequence[Any]]:
        """Some of the calibration batches, evenly spaced."""
        every = self.context.need_calibration(who)
        picked = torch.linspace(0, len(every) - 1, min(most, len(every))).round().long()
        return [every[index] for index in picked.tolist()]

    def weight(self, param: Node, form: str) -> torch.Tensor:
        """A weight as its codes give it back."""
        key = param.name, form
        if key not in self._stored:
            self._stored[key] = nearest(self.graph.value(param), form)
        return self._stored[key].value

    def error(self, param: Node, form: str | None) -> torch.Tensor:
        """What its codes add to a weight, in int8 by the row: kept for the next time."""
        value = self.graph.value(param)
        if form is None:
            return torch.zeros_like(value)
        key = param.name, form
        if key not in self._errors:
            error = nearest(value, form).value - value
            self._errors[key] = Channelwise(*rounded(error))
        return self._errors[key].value

    def data(self, reader: Node, value: torch.Tensor, choice: Choice) -> torch.Tensor:
        """What a reader reads, as its codes give it back."""
        kind, axis = choice.activations, CONTRACTIONS[reader.op]
        mode = "dynamic-tensor" if kind == "dynamic" and axis != -1 else kind
        limits = torch.zeros(()), torch.zeros(())
        if is_static(kind):
            if not self._seen:
                self._watch()
            seen = self._seen[reader.args[0].name]
            limits = seen.low.min(), seen.high.max()
        return fake_quantize(value, limits, mode)

    def reading(self, chosen: Mapping[Node, Choice]) -> Read:
        """What readers see under these choices; for ``execute``."""

        def read(reader: Node, used: Node, value: Any) -> Any:
            choice = chosen.get(reader)
            if choice is None:
                return value
            if used is weight_of(reader):
                return value if choice.weights is None else self.weight(used, choice.weights)
            if choice.activations is not None and weighted(reader) and used is reader.args[0]:
                return self.data(reader, value, choice)
            return value

        return read

    def damage(
        self,
        chosen: Mapping[Node, Choice],
        batches: Sequence[Sequence[Any]],
        wanted: Sequence[Sequence[torch.Tensor]],
    ) -> float:
        """``sum |y' - y|^2 / sum |y|^2`` over the outputs and batches."""
        return squared_error(self.graph, batches, wanted, self.reading(chosen))

    def exact(self, batches: Sequence[Sequence[Any]]) -> list[list[torch.Tensor]]:
        """The floating-point outputs by batch."""
        with torch.no_grad():
            return [floats(execute(self.graph, batch)) for batch in batches]

    def _watch(self) -> None:
        readers = [r for unit in self.units for r in unit.readers if weighted(r)]
        axes = {reader.args[0].name: CONTRACTIONS[reader.op] for reader in readers}
        self._seen |= observe(self.graph, self.context, axes, "Allocate", sample=0)


def nearest(weight: torch.Tensor, form: str) -> Stored:
    """The codes of a weight."""
    if form == CHANNELWISE:
        return Channelwise(*rounded(weight))
    return InFormat.of(clipped(named(form), weight))


def clipped(form: Format, weight: torch.Tensor) -> Quantized:
    """Codes with the best of a few parts of each block's range."""
    first = form.fit(weight)
    if form.element.scale_free or form.element.dimension is not None:
        return form.quantize(weight, first)
    blocks = form.blocks(weight)
    low, high = form.reduce("amin", blocks), form.reduce("amax", blocks)
    best, least = first, torch.full_like(first.scale, torch.inf)
    for clip in CLIPS:
        tried = form.of_range(low * clip, high * clip)
        tried = Parameters(tried.scale, first.whole, tried.zero)
        error = form.reduce("sum", form.rounded(blocks, tried).sub_(blocks).square_())
        better = error < least
        least = torch.where(better, error, least)
        best = tried.where(better, best)
    return form.quantize(weight, best)


def _fit(graph: Graph, unit: Unit, choice: Choice) -> bool:
    """Whether a choice can be made for all readers of a unit."""
    if choice.weights is None or choice.weights == CHANNELWISE:
        return True
    form = named(choice.weights)
    linear = all(reader.op in ("linear", "embedding") for reader in unit.readers)
    return linear and all(fits(form, graph.value(weight)) for weight in unit.weights)
