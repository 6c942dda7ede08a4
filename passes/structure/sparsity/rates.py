"""How many zeros each layer gets, for a part of all weights.

**ERK**: the part that stays of a layer is in proportion to the sum of its sizes over their product.
**Magnitude**: one threshold of |w| over all layers.
**Rate-distortion** (A81, F9.2): ``D_l(p)``, the change of the model's outputs with a part p of
layer l alone at zero, by magnitude, is run for each of some p; a solver finds those of least sum.
**Essential** (A60): the part, the same of each layer, behind which the outputs change sharply.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import torch

from ....ir import Graph, Node
from ....ir.codes import in_kernel_order, out_of_kernel_order
from ....ir.interpret import execute
from ...base import Context
from ...budget import DynamicProgramming, Problem, Solver
from ...options import COUNT, Range, check_kinds, check_known, check_numbers, named
from ...patterns import Pattern
from ...quantization.simulated import floats
from ..groups import in_full

Measure: TypeAlias = Literal["parameters", "macs"]
MOST = 0.99  # of a layer that goes: at least something of each stays


@dataclass(frozen=True)
class Layer:
    """A contraction whose weight may lose some, with the weight and its shape."""

    node: Node
    weight: Node
    shape: tuple[int, ...]
    positions: int = 1  # that one run applies it to

    @property
    def name(self) -> str:
        return self.weight.name

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def things(self, pattern: Pattern) -> int:
        """Of how many things a part of it is."""
        return pattern.count(self.shape[0], self.size // self.shape[0])

    def most(self, pattern: Pattern) -> float:
        """The part that goes where one of these stays."""
        return 1 - 1 / self.things(pattern)

    def zeros(self, pattern: Pattern, part: float) -> int:
        """How many of its weights go with a part of it."""
        return pattern.zeros(self.shape[0], self.size // self.shape[0], part)

    def emptied(self, pattern: Pattern, part: float) -> bool:
        """Whether nothing stays."""
        return round(part * self.things(pattern)) >= self.things(pattern)


@dataclass(frozen=True)
class Rates(abc.ABC):
    """A value with typed options."""

    @abc.abstractmethod
    def divide(
        self,
        graph: Graph,
        context: Context,
        layers: Sequence[Layer],
        pattern: Pattern,
        remove: float,
    ) -> dict[str, float]:
        """The part of each layer that goes, by the weight's name: together, that of all."""

    @property
    def products(self) -> bool:
        """Whether what goes is a part of the products, and not of the weights."""
        return False

    def most(self, layers: Sequence[Layer], pattern: Pattern) -> float:
        """The greatest part of all with which something of each stays."""
        kept = sum(layer.size * (1 - layer.most(pattern)) for layer in layers)
        return 1 - kept / sum(layer.size for layer in layers)


@dataclass(frozen=True)
class Even(Rates):
    """The same part of each."""

    def divide(
        self,
        graph: Graph,
        context: Context,
        layers: Sequence[Layer],
        pattern: Pattern,
        remove: float,
    ) -> dict[str, float]:
        return {layer.name: remove for layer in layers}

    def most(self, layers: Sequence[Layer], pattern: Pattern) -> float:
        return min(layer.most(pattern) for layer in layers)


@dataclass(frozen=True)
class ErdosRenyi(Rates):
    """What stays is in proportion to the sum of a weight's sizes; of small layers, all."""

    def divide(
        self,
        graph: Graph,
        context: Context,
        layers: Sequence[Layer],
        pattern: Pattern,
        remove: float,
    ) -> dict[str, float]:
        wanted = (1 - remove) * sum(layer.size for layer in layers)
        low, high = 0.0, float(max(layer.size / sum(layer.shape) for layer in layers))

        def part(layer: Layer, scale: float) -> float:
            even = 1 - scale * sum(layer.shape) / layer.size
            return min(max(even, 0.0), layer.most(pattern))

        for _ in range(100):
            middle = (low + high) / 2
            kept = sum(layer.size * (1 - part(layer, middle)) for layer in layers)
            low, high = (middle, high) if kept < wanted else (low, middle)
        return {layer.name: part(layer, high) for layer in layers}


@dataclass(frozen=True)
class OneThreshold(Rates):
    """What one threshold of |w| over all layers leaves out of each."""

    def divide(
        self,
        graph: Graph,
        context: Context,
        layers: Sequence[Layer],
        pattern: Pattern,
        remove: float,
    ) -> dict[str, float]:
        sizes = [graph.value(layer.weight).abs().flatten().float() for layer in layers]
        order = torch.argsort(torch.cat(sizes), stable=True)
        gone = torch.zeros(len(order))
        gone[order[: round(remove * len(order))]] = 1
        parts = gone.split([len(size) for size in sizes])
        return {
            layer.name: min(float(part.mean()), MOST, layer.most(pattern))
            for layer, part in zip(layers, parts, strict=True)
        }


@dataclass(frozen=True)
class RateDistortion(Rates):
    """The parts of least change of the outputs, were the changes of layers to add up.

    Args:
        solver: What finds them.
        steps: Parts that are tried of each layer: 0, 1/steps and so on; beyond the last but one,
            finer, as the last of a layer are worth most.
        batches: At most so many of the calibration batches.
        of: What goes is a part of: all weights, the ``parameters``; or all ``macs``, the products
            that these take, of which a convolution's are as many as it has positions.
    """

    solver: Solver = field(default_factory=DynamicProgramming)
    steps: int = 20
    batches: int = 2
    of: Measure = "parameters"

    def __post_init__(self) -> None:
        check_numbers(self, steps=Range(2, whole=True), batches=COUNT)
        check_known([self.of], get_args(Measure), "budget of")
        check_kinds(self, solver=Solver)

    @property
    def parts(self) -> list[float]:
        """That are tried."""
        last = 1 - 1 / self.steps
        return [*(i / self.steps for i in range(self.steps)), (last + MOST) / 2, MOST]

    def divide(
        self,
        graph: Graph,
        context: Context,
        layers: Sequence[Layer],
        pattern: Pattern,
        remove: float,
    ) -> dict[str, float]:
        problem = self.problem(graph, context, layers, pattern, remove)
        problem.check()
        chosen = self.solver.solve(problem)
        pairs = zip(layers, chosen, strict=True)
        return {layer.name: min(self.parts[i], layer.most(pattern)) for layer, i in pairs}

    def problem(
        self,
        graph: Graph,
        context: Context,
        layers: Sequence[Layer],
        pattern: Pattern,
        remove: float,
    ) -> Problem:
        """The curves, and what stays of each layer as the cost of each of its parts."""
        damage = Damage(graph, context, self.batches, type(self).__name__)
        most = torch.tensor([layer.most(pattern) for layer in layers], dtype=torch.float64)
        parts = torch.tensor(self.parts, dtype=torch.float64).minimum(most[:, None])
        found = torch.zeros(parts.shape, dtype=torch.float64)
        for row, layer in enumerate(context.progress(layers, "Sparsify: curves of layers")):
            for column, part in enumerate(parts[row, 1:].tolist(), 1):
                found[row, column] = damage.of({layer: part}, pattern)
        kept = [
            [layer.size - layer.zeros(pattern, part) for part in some]
            for layer, some in zip(layers, parts.tolist(), strict=True)
        ]
        times = torch.tensor([self._times(layer) for layer in layers], dtype=torch.float64)
        cost = times[:, None] * torch.tensor(kept, dtype=torch.float64)
        limit = float((1 - remove) * cost[:, 0].sum())
        names = tuple(layer.name for layer in layers)
        unit = " weights" if self.of == "parameters" else " products"
        return Problem(names, found, cost, limit, unit=(unit, 1.0))

    @property
    def products(self) -> bool:
        return self.of == "macs"

    def _times(self, layer: Layer) -> int:
        """What a weight of a layer counts."""
        return layer.positions if self.products else 1

    def most(self, layers: Sequence[Layer], pattern: Pattern) -> float:
        total = sum(self._times(layer) * layer.size for layer in layers)
        # of no layer goes more than is tried
        parts = [min(MOST, layer.most(pattern)) for layer in layers]
        gone = [self._times(x) * x.zeros(pattern, p) for x, p in zip(layers, parts, strict=True)]
        return sum(gone) / total


class Damage:
    """The change of a model's outputs on calibration data with zeros in some layers, by magnitude:
    ``|y' - y|^2 / |y - mean y|^2``, where the mean of each channel is over all else.

    It is 1 for outputs that no longer depend on the inputs. What all outputs have in common, which
    is most of a decoder's logits, is no measure of a change; where nothing else is there, as of one
    row of one channel each, it is the measure all the same.
    """

    def __init__(self, graph: Graph, context: Context, batches: int, who: str) -> None:
        self.graph = in_full(graph)
        self.batches = context.need_calibration(who)[:batches]
        self.wanted = [self._outputs(batch, {}) for batch in self.batches]
        self.power = sum(spread(list(one)) for one in zip(*self.wanted, strict=True))

    def of(self, parts: Mapping[Layer, float], pattern: Pattern) -> float:
        params = {
            layer.name: cut(self.graph.store[layer.name], pattern, part)
            for layer, part in parts.items()
        }
        found = 0.0
        for batch, wanted in zip(self.batches, self.wanted, strict=True):
            for one, other in zip(self._outputs(batch, params), wanted, strict=True):
                found += float((one - other).double().square().sum())
        return found / max(self.power, 1e-300)

    def _outputs(self, batch: Sequence[Any], params: Mapping[str, torch.Tensor]) -> Any:
        with torch.no_grad():
            return list(floats(execute(self.graph, batch, params=params)))


def spread(batches: Sequence[torch.Tensor]) -> float:
    """How far the values of one output are from the means of their channels, squared and summed."""
    found = [_by_channel(value) for value in batches]
    if len({rows.shape[1] for rows in found}) > 1:  # as many as there are tokens
        return sum(spread([value]) for value in batches)
    rows = torch.cat(found).double()
    apart, power = float((rows - rows.mean(0)).square().sum()), float(rows.square().sum())
    return apart if apart > 1e-12 * power else power


def _by_channel(value: torch.Tensor) -> torch.Tensor:
    """An output as ``[rows, channels]``: the last axis, of images and more the second."""
    if value.dim() < 2:
        return value.reshape(-1, 1)
    axis = -1 if value.dim() < 4 else 1
    return value.movedim(axis, -1).reshape(-1, value.shape[axis])


def cut(weight: torch.Tensor, pattern: Pattern, part: float) -> torch.Tensor:
    """A weight without its least."""
    rows = in_kernel_order(weight)
    return out_of_kernel_order(rows * pattern.mask(rows.square(), part), weight.shape)


@dataclass(frozen=True)
class Knee:
    """Where a curve of damage turns up.

    Attributes:
        part: The last part before it.
        parts, damages: The curve.
    """

    part: float
    parts: list[float]
    damages: list[float]


PARTS: list[float] = [i / 20 for i in range(20)]


def essential(
    graph: Graph, context: Context, layers: Sequence[Layer], pattern: Pattern, batches: int = 2
) -> Knee:
    """Where the outputs change sharply as more goes of each layer, by magnitude, at once (A60)."""
    if not layers:
        return Knee(0.0, [], [])
    damage = Damage(graph, context, batches, "Sparsify")
    parts = [p for p in PARTS if not any(layer.emptied(pattern, p) for layer in layers)]
    found = [
        damage.of({layer: part for layer in layers}, pattern) if part else 0.0
        for part in context.progress(parts, "Sparsify: where it matters")
    ]
    return Knee(drop_point(parts, found), parts, found)


def drop_point(parts: Sequence[float], damages: Sequence[float]) -> float:
    """The knee of a curve: the part whose damage is farthest below the chord from the first point
    to the last with a damage below 1, from which on outputs are as far off as constant ones
    (Satopaa et al. 2011), both axes scaled to 1."""
    count = next((i for i, damage in enumerate(damages) if damage >= 1), len(damages))
    top = count - 1
    if top < 1 or damages[top] <= damages[0]:
        return parts[max(top, 0)]
    width, height = parts[top] - parts[0], damages[top] - damages[0]
    return max(
        zip(parts[:count], damages[:count], strict=True),
        key=lambda at: (at[0] - parts[0]) / width - (at[1] - damages[0]) / height,
    )[0]


RATES: dict[str, Rates] = {
    "even": Even(),
    "erk": ErdosRenyi(),
    "magnitude": OneThreshold(),
    "rate-distortion": RateDistortion(),
}


def named_rates(given: str | Rates) -> Rates:
    """Those of a name."""
    return named(given, RATES, "rule for rates", Rates)
