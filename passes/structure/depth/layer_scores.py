"""What each layer is worth: the score of leaving it out."""

from __future__ import annotations

import abc
import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch

from ....ir import Graph
from ....ir.interpret import execute, values_of
from ....ir.state import answers
from ...base import Context
from ...options import COUNT, check_kinds, check_known, check_numbers
from ...quantization.simulated import floats
from ..groups import in_full
from .changes import Change, Without, angle, changed
from .layers import Layer, of_copy, without

Run: TypeAlias = Callable[[Sequence[Any]], tuple[Any, ...]]  # a model on flat inputs
Place: TypeAlias = Literal["top", "bottom", "symmetric", "alternate"]


@dataclass(frozen=True)
class LayerScore(abc.ABC):
    """A value with typed options."""

    @abc.abstractmethod
    def of(
        self,
        graph: Graph,
        layers: Sequence[Layer],
        context: Context,
        whole: Graph | None = None,
    ) -> torch.Tensor:
        """What each layer is worth, ``float64[layers]``.

        Args:
            whole: The model before any layer was left out, if that is another.
        """

    def least(
        self,
        graph: Graph,
        layers: Sequence[Layer],
        context: Context,
        whole: Graph | None = None,
    ) -> tuple[int, float]:
        """Which layer is worth least, and what."""
        worth = self.of(graph, layers, context, whole)
        return int(worth.argmin()), float(worth.min())

    @property
    def name(self) -> str:
        return type(self).__name__


@dataclass(frozen=True)
class Similarity(LayerScore):
    """``1 - mean over positions of cos(x, x + f(x))`` (A92; of whole blocks, ShortGPT): one run.

    Args:
        batches: At most so many of the calibration batches.
    """

    batches: int = 8

    def __post_init__(self) -> None:
        check_numbers(self, batches=COUNT)

    def of(
        self,
        graph: Graph,
        layers: Sequence[Layer],
        context: Context,
        whole: Graph | None = None,
    ) -> torch.Tensor:
        batches = context.need_calibration(self.name)[: self.batches]
        single, total = in_full(graph), torch.zeros(len(layers), dtype=torch.float64)
        own = of_copy(single, layers)
        wanted = list({node for layer in own for node in (layer.value, layer.by)})
        for batch in context.progress(batches, f"{self.name}: watching layers"):
            seen = dict(zip(wanted, values_of(single, batch, wanted), strict=True))
            for index, layer in enumerate(own):
                total[index] += angle(seen[layer.value], seen[layer.by])
        return total / len(batches)


@dataclass(frozen=True)
class OutputChange(LayerScore):
    """How far the model's outputs move when the layer alone is left out (A82, A99, A68).

    Args:
        change: ``error``: the squared error, relative; ``angle``: ``1 - cos`` of what stands on
            the last axis; ``divergence``: Jensen-Shannon, of the distributions of which the
            outputs are logits; ``statistics``: ``|difference of means| + |of deviations|``.
        batches: At most so many of the calibration batches; the search for the least keeps what
            these have made.
    """

    change: Change = "error"
    batches: int = 2

    def __post_init__(self) -> None:
        check_numbers(self, batches=COUNT)
        check_known([self.change], get_args(Change), "change")

    def of(
        self,
        graph: Graph,
        layers: Sequence[Layer],
        context: Context,
        whole: Graph | None = None,
    ) -> torch.Tensor:
        batches = context.need_calibration(self.name)[: self.batches]
        single, total = in_full(graph), torch.zeros(len(layers), dtype=torch.float64)
        own, first = of_copy(single, layers), None if whole is None else in_full(whole)
        for batch in batches:
            run = Without(single, own, batch)
            wanted = _wanted(run, first, batch)
            for index, layer in enumerate(
                context.progress(own, f"{self.name}: leaving out layers")
            ):
                total[index] += changed(run.outputs(layer), wanted, self.change)
        return total / len(batches)

    def least(
        self,
        graph: Graph,
        layers: Sequence[Layer],
        context: Context,
        whole: Graph | None = None,
    ) -> tuple[int, float]:
        """Which layer is worth least: changes add up over batches and none is negative, so a layer
        that has come to more than another's sum needs no further batch."""
        batches = context.need_calibration(self.name)[: self.batches]
        single, first = in_full(graph), None if whole is None else in_full(whole)
        own = of_copy(single, layers)
        runs: list[tuple[Without, Sequence[torch.Tensor]]] = []
        race = [(0.0, 0, index) for index in range(len(own))]  # sum, batches seen, layer
        while True:
            total, seen, index = heapq.heappop(race)
            if seen == len(batches):
                return index, total / seen
            if seen == len(runs):
                run = Without(single, own, batches[seen])
                runs.append((run, _wanted(run, first, batches[seen])))
            run, wanted = runs[seen]
            total += changed(run.outputs(own[index]), wanted, self.change)
            heapq.heappush(race, (total, seen + 1, index))


def _wanted(run: Without, whole: Graph | None, batch: Sequence[Any]) -> Sequence[torch.Tensor]:
    """The outputs of the whole model, which the run has where no layer was left out before."""
    if whole is None:
        return run.wanted
    with torch.no_grad():
        return floats(values_of(whole, batch, answers(whole)))


@dataclass(frozen=True)
class SampledChange(LayerScore):
    """How far what a sampler makes moves when the layer alone is left out of the model that it
    calls (A68): of a diffusion model the graph is one step, and the sampler is the loop around it.

    Args:
        sample: Called with the model as a function of flat inputs; gives what is compared. It has
            to start from the same noise every time.
        change: As ``OutputChange`` has it.
    """

    sample: Callable[[Run], torch.Tensor]
    change: Change = "statistics"

    def __post_init__(self) -> None:
        check_kinds(self, sample=Callable)
        check_known([self.change], get_args(Change), "change")

    def of(
        self,
        graph: Graph,
        layers: Sequence[Layer],
        context: Context,
        whole: Graph | None = None,
    ) -> torch.Tensor:
        single = in_full(graph)
        wanted = self._sampled(single if whole is None else in_full(whole))
        total = torch.zeros(len(layers), dtype=torch.float64)
        for index, layer in enumerate(context.progress(layers, f"{self.name}: sampling")):
            trial = single.copy()
            without(trial, of_copy(trial, [layer]))
            total[index] = changed([self._sampled(trial)], [wanted], self.change)
        return total

    def _sampled(self, graph: Graph) -> torch.Tensor:
        with torch.no_grad():
            return self.sample(lambda inputs: execute(graph, inputs))


@dataclass(frozen=True)
class Position(LayerScore):
    """By place alone, without data (Sajjad and others, arXiv:2004.03844).

    Args:
        drop: Which go first. ``top``: the last ones, so that the first k stay, as for an early
            exit; ``bottom``: the first ones; ``symmetric``: those in the middle; ``alternate``:
            every second, from the last but one on.
    """

    drop: Place = "top"

    def __post_init__(self) -> None:
        check_known([self.drop], get_args(Place), "place to drop")

    def of(
        self,
        graph: Graph,
        layers: Sequence[Layer],
        context: Context,
        whole: Graph | None = None,
    ) -> torch.Tensor:
        places = torch.arange(len(layers), dtype=torch.float64)
        match self.drop:
            case "top":
                return places.flip(0)
            case "bottom":
                return places
            case "symmetric":
                return (places - (len(layers) - 1) / 2).abs()
            case "alternate":
                behind = places.flip(0)
                return torch.where(behind % 2 == 1, behind, behind + len(layers))


SCORES: Mapping[str, LayerScore] = {
    "similarity": Similarity(),
    "output": OutputChange(),
    "divergence": OutputChange("divergence"),
    "statistics": OutputChange("statistics"),
    "position": Position(),
}
