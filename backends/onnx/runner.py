"""What runs a model file: values go in by the names of the graph's inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...ir import Graph
from ..outputs import Outputs
from .file import ModelFile


class OnnxRunner(ABC):
    """A runtime with a model in it.

    Args:
        model: What it read.
        graph: What was lowered: its inputs and outputs say what the model's are.
        fed: The inputs that the runtime knows; of others nothing depends.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, model: ModelFile, graph: Graph, fed: Iterable[str]) -> None:
        self.model = model
        self._names = [node.name for node in graph.inputs]
        self._outputs = Outputs(graph)
        self._fed = set(fed)

    def __call__(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        given = zip(self._names, inputs, strict=True)
        return self._outputs.of(self._run({n: value for n, value in given if n in self._fed}))

    @abstractmethod
    def _run(self, feeds: Mapping[str, Any]) -> Iterable[torch.Tensor]:
        """The model's outputs; raises ``TargetError``."""

    @property
    def bytes(self) -> int:
        return self.model.bytes

    def save(self, folder: Path) -> None:
        self.model.save(folder)
