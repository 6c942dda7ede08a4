"""What leaving a layer out changes: runs without it, and how far outputs are from those wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch.nn import functional as F

from ....ir import Graph, Node
from ....ir.interpret import by_input, compute
from ....ir.state import answers
from ...quantization.simulated import floats
from .layers import Layer, downstream

Change: TypeAlias = Literal["error", "angle", "divergence", "statistics"]
_CHUNK = 2**18  # numbers compared at once: they stay in the cache


class Without:
    """A graph on one batch with one layer after another left out; what comes before the layer is
    computed once for all."""

    def __init__(self, graph: Graph, layers: Sequence[Layer], batch: Sequence[Any]) -> None:
        self.graph, self.layers, self.answers = graph, layers, answers(graph)
        self.after = {layer: downstream(graph, layer.value) for layer in layers}
        self.needed = {layer: self._needed(layer) for layer in layers}
        kept = {node for some in self.needed.values() for node in some}
        self.values = by_input(graph, batch)
        self.values |= {param: graph.value(param) for param in graph.params.values()}
        with torch.no_grad():
            compute(graph.nodes, self.values, keep={*kept, *self.values, *self.answers})
        self.wanted = floats([self.values[node] for node in self.answers])

    def outputs(self, layer: Layer) -> list[torch.Tensor]:
        """The outputs in floating point without a layer."""
        values = {node: self.values[node] for node in self.needed[layer]}
        values[layer.value] = self.values[layer.by]
        with torch.no_grad():
            compute(self.after[layer], values, keep=self.answers)
        return floats([values[node] for node in self.answers])

    def _needed(self, layer: Layer) -> set[Node]:
        """What has to be at hand to go on behind a layer."""
        inside = {layer.value, *self.after[layer]}
        read = {used for node in self.after[layer] for used in node.inputs}
        return {*read, *self.answers, layer.by} - inside


def changed(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], how: Change) -> float:
    """How far outputs are from those of the whole model."""
    total = 0.0
    for value, whole in zip(found, wanted, strict=True):
        match how:
            case "error":
                total += _error(value, whole)
            case "angle":
                total += angle(value, whole)
            case "divergence":
                total += _divergence(value, whole)
            case "statistics":
                means = (value.mean() - whole.mean()).abs()
                total += float(means + (value.std() - whole.std()).abs())
    return total


def angle(some: torch.Tensor, others: torch.Tensor) -> float:
    """``1 - cos``, on average: of tokens by their channels, of images and maps as wholes."""
    first, second = (
        v.flatten(1) if v.dim() > 3 else v.reshape(-1, v.shape[-1]) for v in (some, others)
    )
    if not len(first):  # tokens that data choose, of which these chose none
        return 0.0
    rows, total = max(1, _CHUNK // first.shape[-1]), 0.0
    for x, y in zip(first.split(rows), second.split(rows), strict=True):
        total += float(F.cosine_similarity(x.double(), y.double(), dim=-1).sum())
    return 1.0 - total / len(first)


def _error(value: torch.Tensor, whole: torch.Tensor) -> float:
    gap = power = 0.0
    pairs = zip(value.flatten().split(_CHUNK), whole.flatten().split(_CHUNK), strict=True)
    for some, others in ((x.double(), y.double()) for x, y in pairs):
        gap += float((some - others).square().sum())
        power += float(others.square().sum())
    return gap / max(power, 1e-30)


def _divergence(some: torch.Tensor, others: torch.Tensor) -> float:
    """Jensen-Shannon's, of distributions on the last axis, on average."""
    first, second = (v.reshape(-1, v.shape[-1]) for v in (some, others))
    rows, total = max(1, _CHUNK // first.shape[-1]), 0.0
    for parts in zip(first.split(rows), second.split(rows), strict=True):
        p, q = (part.log_softmax(-1) for part in parts)
        middle = torch.logaddexp(p, q) - math.log(2)
        total += sum(
            float(F.kl_div(middle, each, reduction="sum", log_target=True)) for each in (p, q)
        )
    return total / 2 / len(first)
