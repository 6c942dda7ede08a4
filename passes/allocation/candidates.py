"""What each choice makes of what it is chosen for: the quantized weights and values, simulated.

Weights are rounded to the nearest, with a short search for the ends of their range: enough to tell
choices apart. Zeros go where ``w_j^2 E x_j^2`` is least (Wanda, A23), or ``w_j^2`` where nothing is
known of what is read, and nothing makes up for them. What is then done is better, for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch

from ...ir import Graph, InputError, Node, astype
from ...ir.codes import in_kernel_order, out_of_kernel_order
from ...ir.formats import Format, Parameters, Quantized, named
from ...ir.gauge import weighted
from ...ir.gauge.sites import CONTRACTIONS
from ...ir.interpret import Read, execute
from ..base import Context
from ..calibration import SAMPLE, Observation, observe
from ..patterns import Sparsity, named_sparsity
from ..quantization.choices import CHANNELWISE, Choice
from ..quantization.simulated import fake_quantize, floats, squared_error
from ..quantization.solvers import no_zeros, rounded
from ..quantization.values import is_static
from ..quantization.weights import Channelwise, InFormat, Stored, fits
from ..structure.sparsity.rates import Layer
from ..structure.sparsity.sparsify import Sparsify
from .units import Unit, weight_of

_Key: TypeAlias = tuple[str, str | None, str | None]  # a weight, its format, and its zeros
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
        unfit: ``bool[U]``: which none of the choices asked for fits.
    """

    graph: Graph
    context: Context
    units: list[Unit]
    choices: list[Choice]
    offered: torch.Tensor
    unfit: torch.Tensor
    _stored: dict[_Key, Stored] = field(default_factory=dict[_Key, Stored])
    _errors: dict[_Key, Stored] = field(default_factory=dict[_Key, Stored])
    _stays: dict[tuple[str, str], torch.Tensor] = field(
        default_factory=dict[tuple[str, str], torch.Tensor]
    )
    _seen: dict[str, Observation] = field(default_factory=dict[str, Observation])

    @classmethod
    def of(
        cls,
        graph: Graph,
        context: Context,
        units: Sequence[Unit],
        choices: Sequence[Choice],
        sparsify: Sparsify | None = None,
    ) -> Candidates:
        """Offer every choice whose format and zeros fit; what none fits, the same without zeros, or
        else int8 by the channel.

        Args:
            sparsify: What puts zeros, where any are among the choices.

        Raises:
            InputError: There is nothing to choose for, or nothing to choose from.
        """
        if not units:
            raise InputError("there is nothing to allocate bits to", do="units of the graph")
        if not choices:
            raise InputError(
                "an allocation needs choices, and there is none",
                do="choices=('int4-g64-asym', 'int8-g64-asym')",
            )
        single = astype(graph, torch.float32)
        nodes = {node.name: node for node in single.nodes}
        own = [Unit(tuple(nodes[r.name] for r in unit.readers), unit.block) for unit in units]
        found = list(dict.fromkeys(choices))
        sparsify = Sparsify() if sparsify is None else sparsify
        lose = _Losing(single, sparsify, sparsify.spared(graph))
        fitting = [[_fit(single, unit, choice, lose) for choice in found] for unit in own]
        offered = torch.tensor(fitting)
        unfit = ~offered.any(1)
        for fallback in (_dense, _channelwise):  # for units that no choice fits
            left = ~offered.any(1)
            others = dict.fromkeys(map(fallback, choices)) if bool(left.any()) else ()
            for choice in (other for other in others if other not in found):
                fits = torch.tensor([_fit(single, unit, choice, lose) for unit in own])
                found.append(choice)
                offered = torch.cat([offered, (left & fits)[:, None]], 1)
        return cls(single, context, own, found, offered, unfit)

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

    def weight(self, param: Node, choice: Choice) -> torch.Tensor:
        """What a choice makes of a weight."""
        value = self._with_zeros(param, choice)
        if choice.weights is None:
            return value
        key = param.name, *choice.stored
        if key not in self._stored:
            self._stored[key] = nearest(value, choice.weights)
        return self._stored[key].value

    def error(self, param: Node, choice: Choice) -> torch.Tensor:
        """What a choice adds to a weight, in int8 by the row: kept for the next time."""
        value = self.graph.value(param)
        if choice.stored == (None, None):
            return torch.zeros_like(value)
        key = param.name, *choice.stored
        if key not in self._errors:
            made = self._with_zeros(param, choice)
            made = made if choice.weights is None else nearest(made, choice.weights).value
            self._errors[key] = Channelwise(*rounded(made - value))
        return self._errors[key].value

    def _with_zeros(self, param: Node, choice: Choice) -> torch.Tensor:
        value = self.graph.value(param)
        return value if choice.zeros is None else value * self.stays(param, choice.zeros)

    def stays(self, param: Node, zeros: str) -> torch.Tensor:
        """Where a weight is not put to zero, of its shape."""
        key = param.name, zeros
        if key not in self._stays:
            value = self.graph.value(param)
            worth = in_kernel_order(value).square()
            power = self._power(param)
            if power is not None and value.shape[1] == len(power):
                # in this order, the inputs of one position of a kernel are neighbours
                worth = worth * power.repeat(worth.shape[1] // len(power))
            stays = named_sparsity(zeros).mask(worth)
            self._stays[key] = out_of_kernel_order(stays, value.shape)
        return self._stays[key]

    def _power(self, param: Node) -> torch.Tensor | None:
        """``E x_j^2`` of what a weight's readers read; ``None`` without data."""
        if not self.context.calibration:
            return None
        return self._read(next(iter(param.users))).rows.square().mean(0)

    def data(self, reader: Node, value: torch.Tensor, choice: Choice) -> torch.Tensor:
        """What a reader reads, as its codes give it back."""
        kind, axis = choice.activations, CONTRACTIONS[reader.op]
        mode = "dynamic-tensor" if kind == "dynamic" and axis != -1 else kind
        limits = torch.zeros(()), torch.zeros(())
        if is_static(kind):
            seen = self._read(reader)
            limits = seen.low.min(), seen.high.max()
        return fake_quantize(value, limits, mode)

    def reading(self, chosen: Mapping[Node, Choice]) -> Read:
        """What readers see under these choices; for ``execute``."""

        def read(reader: Node, used: Node, value: Any) -> Any:
            choice = chosen.get(reader)
            if choice is None:
                return value
            if used is weight_of(reader):
                return self.weight(used, choice)
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

    def _read(self, reader: Node) -> Observation:
        """What was seen of what a contraction reads."""
        if not self._seen:
            self._watch()
        return self._seen[reader.args[0].name]

    def _watch(self) -> None:
        readers = [r for unit in self.units for r in unit.readers if weighted(r)]
        axes = {reader.args[0].name: CONTRACTIONS[reader.op] for reader in readers}
        sparse = any(choice.zeros is not None for choice in self.choices)
        count = SAMPLE if sparse else 0
        self._seen |= observe(self.graph, self.context, axes, "Allocate", sample=count)


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


def _fit(graph: Graph, unit: Unit, choice: Choice, lose: _Losing) -> bool:
    """Whether a choice can be made for all readers of a unit."""
    if choice.zeros is not None and not lose(unit, choice.zeros):
        return False
    if choice.weights is None or choice.weights == CHANNELWISE:
        return True
    form = named(choice.weights)
    if choice.zeros is not None and no_zeros(form):
        return False
    linear = all(reader.op in ("linear", "embedding") for reader in unit.readers)
    return linear and all(fits(form, graph.value(weight)) for weight in unit.weights)


def _dense(choice: Choice) -> Choice:
    return replace(choice, zeros=None)


def _channelwise(choice: Choice) -> Choice:
    return replace(choice, weights=choice.weights and CHANNELWISE, zeros=None)


@dataclass(frozen=True)
class _Losing:
    """Whether all weights of a unit can have zeros.

    Args:
        sparsify: What puts them.
        spared: The names of readers that it leaves alone.
    """

    graph: Graph
    sparsify: Sparsify
    spared: set[str]

    def __call__(self, unit: Unit, zeros: str) -> bool:
        return all(self._takes(reader, named_sparsity(zeros)) for reader in unit.readers)

    def _takes(self, reader: Node, zeros: Sparsity) -> bool:
        if not weighted(reader) or reader.name in self.spared:
            return False
        if self.sparsify.refusal(self.graph, reader, zeros.pattern):
            return False
        layer = Layer(reader, reader.args[1], tuple(self.graph.value(reader.args[1]).shape))
        return not layer.emptied(zeros.pattern, zeros.remove)
