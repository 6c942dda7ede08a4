"""The graph itself, run eagerly in PyTorch; saved as its weights, beside which lies its text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..ir import Graph
from ..ir.interpret import execute

WEIGHTS = "weights.safetensors"


class TorchRunner:
    """Runs a graph by the meaning that the op table gives its ops."""

    notes: tuple[str, ...] = ()

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __call__(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        with torch.no_grad():
            return execute(self.graph, inputs)

    def save(self, folder: Path) -> None:
        names = sorted(self.graph.params)
        save_file({name: self.graph.store[name].clone() for name in names}, folder / WEIGHTS)

    @property
    def bytes(self) -> int:
        return self.graph.store.bytes(self.graph.params)


def lower(graph: Graph) -> TorchRunner:
    """The graph itself."""
    return TorchRunner(graph)


def load(folder: Path, graph: Graph) -> TorchRunner:
    """The graph with the weights of the folder."""
    new = graph.copy()
    new.store.tensors.update(load_file(folder / WEIGHTS))
    return TorchRunner(new)
