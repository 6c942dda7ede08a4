"""What each layer of a graph takes of its time on a target.

Layers that are alike, the same ops on values of the same types, are timed together: what n of them
take is the time of the whole less that of the graph without them, and each takes the n-th part.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....ir import Graph, InputError
from ...options import check_known, check_several
from ..costs import Costs
from ..timing import Lowers, Stopwatch
from .layers import LAYER_KINDS, Layer, LayerKind, layers, of_copy, without


@dataclass(frozen=True)
class LayerTimes:
    """What ``DropLayers(of="latency", latency=...)`` can ask.

    Args:
        whole: The time of the graph.
        layers: What each layer takes of it, by name.
    """

    whole: float
    layers: Mapping[str, float]

    @classmethod
    def on(
        cls,
        target: Lowers,
        graph: Graph,
        inputs: Sequence[Any],
        kinds: Sequence[LayerKind] = ("attention", "feedforward"),
        **timing: Any,
    ) -> LayerTimes:
        """The layers of some kinds, timed.

        Args:
            target: Where the graph is to run; it is timed in the dtype that it has.
            inputs: Flat graph inputs.
            timing: What ``Stopwatch`` takes besides: ``rounds``, ``progress``, ``options``.
        """
        check_several(kinds, "kinds", LAYER_KINDS[0])
        check_known(kinds, LAYER_KINDS, "kind of layers")
        alike: dict[Any, list[Layer]] = {}
        for layer in layers(graph, kinds, Costs(graph, [], inputs)):
            alike.setdefault(_form(layer), []).append(layer)
        graphs = [graph]
        for some in alike.values():
            less = graph.copy()
            without(less, of_copy(less, some))
            graphs.append(less)
        whole, *times = Stopwatch(target, inputs, **timing)(graphs)
        found = {
            layer.name: max(whole - time, 0.0) / len(some)
            for some, time in zip(alike.values(), times, strict=True)
            for layer in some
        }
        return cls(whole, found)

    def __call__(self, gone: Collection[str]) -> float:
        """The time without some layers, by name, none of which lies in another."""
        if unknown := [name for name in gone if name not in self.layers]:
            raise InputError(
                f"no time is known of {', '.join(unknown)}",
                do="LayerTimes.on(target, graph, inputs, kinds), of this graph and these kinds",
            )
        return self.whole - sum(self.layers[name] for name in gone)


def _form(layer: Layer) -> object:
    """What is equal of layers that take the same time."""
    ops = sorted((node.op, str(node.type)) for node in layer.nodes)
    return layer.kind, layer.parameters, layer.macs, tuple(ops)
