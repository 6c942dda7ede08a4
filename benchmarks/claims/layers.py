"""Layers of a model with what they read: what the objectives of rounding are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from base import Batches, Subject

from regauge.ir import Graph, Node
from regauge.ir.blocks import repeated
from regauge.ir.gauge import inputs_of_contractions
from regauge.ir.interpret import execute
from regauge.passes.quantization.solvers import Hessian


@dataclass
class Layer:
    """A linear layer: its weight, and what its inputs say on calibration and on other data."""

    name: str
    weight: torch.Tensor
    hessian: Hessian
    fresh: Hessian


def layers(subject: Subject, other: Batches, blocks: Sequence[int]) -> Iterator[Layer]:
    """The linear layers of some of the repeated blocks of a model, as it is before quantization."""
    graph = subject.graph
    chain = repeated(graph)
    nodes = {node for index in blocks for node in chain[index].nodes}
    readers: dict[Node, list[Node]] = {}
    for site in inputs_of_contractions(graph):
        if found := [reader for reader in site.readers if reader in nodes]:
            readers[site.value] = found
    seen, fresh = (_hessians(graph, data, readers) for data in (subject.calibration, other))
    for value, found in readers.items():
        for reader in found:
            yield Layer(reader.name, graph.value(reader.args[1]), seen[value], fresh[value])


def _hessians(graph: Graph, batches: Batches, values: dict[Node, Any]) -> dict[Node, Hessian]:
    found: dict[Node, torch.Tensor] = {}

    def tap(node: Node, value: Any) -> None:
        if node in values:
            rows = value.flatten(0, -2)
            found[node] = found.get(node, 0) + (rows.T @ rows).double()

    with torch.no_grad():
        for batch in batches:
            execute(graph, batch, tap=tap)
    return {node: Hessian(matrix) for node, matrix in found.items()}
