"""What each layer is worth: the score of leaving it out."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch.nn import functional as F

from ....ir import Graph, Node
from ....ir.graph import walk
from ....ir.interpret import by_input, compute, execute
from ...base import Context
from ...quantization.simulated import floats
from ..groups import in_full
from .layers import Layer, downstream, of_copy

Change: TypeAlias = Literal["error", "angle", "divergence", "statistics"]


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
        wanted = {node for layer in own for node in (layer.value, layer.by)}
        for batch in context.progress(batches, f"{self.name}: watching layers"):
            seen: dict[Node, torch.Tensor] = {}

            def tap(node: Node, value: Any, seen: dict[Node, torch.Tensor] = seen) -> None:
                if node in wanted:
                    seen[node] = value

            with torch.no_grad():
                execute(single, batch, tap=tap)
            for index, layer in enumerate(own):
                total[index] += _angle(seen[layer.value], seen[layer.by])
        return total / len(batches)


@dataclass(frozen=True)
class OutputChange(LayerScore):
    """How far the model's outputs move when the layer alone is left out (A82, A99, A68).

    Args:
        change: ``error``: the squared error, relative; ``angle``: ``1 - cos`` of what stands on
            the last axis; ``divergence``: Jensen-Shannon, of the distributions of which the
            outputs are logits; ``statistics``: ``|difference of means| + |of deviations|``.
        batches: At most so many of the calibration batches.
    """

    change: Change = "error"
    batches: int = 2

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
            wanted = run.wanted
            if first is not None:
                with torch.no_grad():
                    wanted = floats(execute(first, batch))
            for index, layer in enumerate(
                context.progress(own, f"{self.name}: leaving out layers")
            ):
                total[index] += changed(run.outputs(layer), wanted, self.change)
        return total / len(batches)


SCORES: Mapping[str, LayerScore] = {
    "similarity": Similarity(),
    "output": OutputChange(),
    "divergence": OutputChange("divergence"),
    "statistics": OutputChange("statistics"),
}


class Without:
    """A graph on one batch with one layer after another left out; what comes before the layer is
    computed once for all."""

    def __init__(self, graph: Graph, layers: Sequence[Layer], batch: Sequence[Any]) -> None:
        self.graph, self.layers = graph, layers
        self.after = {layer: downstream(graph, layer.value) for layer in layers}
        self.needed = {layer: self._needed(layer) for layer in layers}
        kept = {node for some in self.needed.values() for node in some}
        self.values = by_input(graph, batch)
        self.values |= {param: graph.value(param) for param in graph.params.values()}
        outputs = list(walk(graph.outputs))
        with torch.no_grad():
            compute(graph.nodes, self.values, keep={*kept, *self.values, *outputs})
        self.wanted = floats([self.values[node] for node in outputs])

    def outputs(self, layer: Layer) -> list[torch.Tensor]:
        """The outputs in floating point without a layer."""
        values = {node: self.values[node] for node in self.needed[layer]}
        values[layer.value] = self.values[layer.by]
        outputs = list(walk(self.graph.outputs))
        with torch.no_grad():
            compute(self.after[layer], values, keep=outputs)
        return floats([values[node] for node in outputs])

    def _needed(self, layer: Layer) -> set[Node]:
        """What has to be at hand to go on behind a layer."""
        inside = {layer.value, *self.after[layer]}
        read = {used for node in self.after[layer] for used in node.inputs}
        return {*read, *walk(self.graph.outputs), layer.by} - inside


def changed(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], how: Change) -> float:
    """How far outputs are from those of the whole model."""
    total = 0.0
    for value, whole in zip(found, wanted, strict=True):
        match how:
            case "error":
                power = whole.double().square().sum().clamp(min=1e-30)
                total += float((value - whole).double().square().sum() / power)
            case "angle":
                total += _angle(value, whole)
            case "divergence":
                total += _divergence(value, whole)
            case "statistics":
                means = (value.mean() - whole.mean()).abs()
                total += float(means + (value.std() - whole.std()).abs())
    return total


def _angle(some: torch.Tensor, others: torch.Tensor) -> float:
    """``1 - cos``, on average: of tokens by their channels, of images and maps as wholes."""
    if some.dim() > 3:
        some, others = some.flatten(1), others.flatten(1)
    return 1.0 - float(F.cosine_similarity(some.double(), others.double(), dim=-1).mean())


def _divergence(some: torch.Tensor, others: torch.Tensor) -> float:
    """Jensen-Shannon's, of distributions on the last axis, on average."""
    first, second = (value.flatten(0, -2).log_softmax(-1) for value in (some, others))
    middle = torch.logsumexp(torch.stack([first, second]), 0) - torch.log(torch.tensor(2.0))
    parts = [F.kl_div(middle, p, reduction="batchmean", log_target=True) for p in (first, second)]
    return float(sum(parts)) / 2
