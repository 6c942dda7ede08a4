"""What the ranks of each layer's form make of the time of a graph on a target.

Layers that are alike, with the same op on values of the same types, are timed together: with all n
of them re-factored the graph takes a time, and each makes the n-th part of the difference. Times of
layers that are not alike are taken to add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ....ir import Graph, InputError
from ...base import Context
from ...sites import Asked
from ..timing import Lowers, Stopwatch
from .factoring import Layer, spaced
from .factorize import Factorize
from .forms import Form, LowRank


@dataclass(frozen=True)
class RankTimes:
    """What ``Factorize(of="latency", latency=...)`` can ask.

    Args:
        whole: The time of the graph.
        layers: What each rank of each layer adds to it, mostly less than 0, by the layer's name.
    """

    whole: float
    layers: Mapping[str, Mapping[int, float]] = field(
        default_factory=dict[str, Mapping[int, float]]
    )

    @classmethod
    def on(
        cls,
        target: Lowers,
        graph: Graph,
        inputs: Sequence[Any],
        form: Form | None = None,
        **timing: Any,
    ) -> RankTimes:
        """The times of some ranks of all layers that can have a form.

        Args:
            target: Where the graph is to run; it is timed in the dtype that it has.
            inputs: Flat graph inputs.
            form: Of the weights; low rank, where not given.
            timing: What ``Stopwatch`` takes besides: ``rounds``, ``progress``, ``options``.
        """
        form = LowRank() if form is None else form
        found, _ = Factorize(form).layers(graph, Asked(graph, ()))
        alike: dict[Any, list[Layer]] = {}
        for layer in found:
            alike.setdefault(_kind(layer), []).append(layer)
        points = [(some, rank) for some in alike.values() for rank in spaced(form, some[0], "macs")]
        watch = Stopwatch(target, inputs, **timing)
        made = watch.progress(points, "making graphs of fewer products")
        whole, *times = watch([graph, *(_factored(graph, inputs, form, *at) for at in made)])
        layers: dict[str, dict[int, float]] = {}
        for (some, rank), time in zip(points, times, strict=True):
            for layer in some:
                layers.setdefault(layer.node.name, {})[rank] = (time - whole) / len(some)
        return cls(whole, layers)

    def offered(self, name: str) -> Sequence[int]:
        """The ranks of a layer whose times are known, rising."""
        if name not in self.layers:
            raise InputError(
                f"no time is known of {name}",
                do="RankTimes.on(target, graph, inputs, form), of this graph and form",
            )
        return sorted(self.layers[name])

    def __call__(self, ranks: Mapping[str, int]) -> float:
        """The time with some layers in these ranks."""
        return self.whole + sum(self.layers[name][rank] for name, rank in ranks.items())


def _kind(layer: Layer) -> object:
    """What is equal of layers that take the same time."""
    node = layer.node
    types = tuple(str(part.type) for part in (node.args[0], node.args[1], node))
    return node.op, types, node.operand(2) is None, str(sorted(node.attrs.items()))


def _factored(
    graph: Graph, inputs: Sequence[Any], form: Form, some: Sequence[Layer], rank: int
) -> Graph:
    """The graph with layers in a rank, whatever they then compute."""
    names = tuple(layer.node.name for layer in some)
    step = Factorize(form, rank=rank, whitened=False, larger=True, sites=names)
    return step.attempt(graph, Context(inputs=inputs))[0]
