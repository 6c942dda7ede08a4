"""What runs a model file: values go in by the names of the graph's inputs."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...ir import Graph, TargetError, TensorType
from ..outputs import Outputs
from .file import ModelFile

_NAME = re.compile(r"['(](\w+)\.[\w.]+[')]")  # of ours, as runtimes quote those of ONNX nodes


def check_precision(graph: Graph, lack: str) -> None:
    """Raise ``TargetError`` for a value in bfloat16; ``lack`` says what there is not for it."""
    for node in (*graph.inputs, *graph.nodes):
        if isinstance(node.type, TensorType) and node.dtype == torch.bfloat16:
            raise TargetError(
                f"{node.name} is in bfloat16, which {lack}",
                where=node.at,
                do="compile model.float(), or for target='torch'",
            )


class OnnxRunner(ABC):
    """A runtime with a model in it.

    Args:
        model: What it read.
        graph: What was lowered: its inputs and outputs say what the model's are.
    """

    notes: tuple[str, ...] = ()
    _fed: set[str]
    """The inputs that the runtime knows; of others nothing depends."""

    def __init__(self, model: ModelFile, graph: Graph) -> None:
        self.model, self._graph = model, graph
        self._names = [node.name for node in graph.inputs]
        self._nodes = {node.name: node for node in graph.nodes}
        self._outputs = Outputs(graph)

    def __call__(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        given = zip(self._names, inputs, strict=True)
        return self._outputs.of(self._run({n: value for n, value in given if n in self._fed}))

    @abstractmethod
    def _run(self, feeds: Mapping[str, Any]) -> Iterable[torch.Tensor]:
        """The model's outputs; raises ``TargetError``."""

    def _named_in(self, error: Exception) -> str:
        """Where the first node comes from that a runtime names as it stops; empty if it does not
        name one, or one that it made itself."""
        named = (self._nodes.get(name) for name in _NAME.findall(str(error)))
        return next((node.at for node in named if node is not None), "")

    def _not_taken(self, who: str, why: str, error: Exception, instead: str) -> TargetError:
        """What a runtime that refuses the model is reported as."""
        return TargetError(
            f"{who} does not take the model: {why}",
            where=self._named_in(error) or str(self.model),
            do=instead,
        )

    def _instead(self, other: str) -> str:
        """What would help where a model is not taken."""
        values = [*self._nodes.values(), *self._graph.inputs]
        if any(isinstance(v.type, TensorType) and v.dtype == torch.float64 for v in values):
            return "compile model.float(): this runtime has few kernels for float64"
        return other

    @property
    def bytes(self) -> int:
        return self.model.bytes

    def save(self, folder: Path) -> None:
        self.model.save(folder)
