"""A Hugging Face checkpoint in the format ``compressed-tensors``, which transformers and vLLM load.

The model's own code stays as it is and gets other weights: those of linear layers in codes, and
those into which exact transformations were folded. What a pass made that the code has no place for
is an error. Embedding tables are written in floating point, as what their codes stand for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ...ir import ArtifactError, Graph
from ...ir.interpret import execute
from .placement import uses
from .writing import Writer, checkpoint_of

WEIGHTS, CONFIG = "model.safetensors", "config.json"


class CheckpointRunner:
    """Runs the graph with the weights of the checkpoint; arithmetic on codes is simulated.

    Attributes:
        tensors: Of the checkpoint, by name.
        config: Its configuration.
    """

    notes: tuple[str, ...] = ()

    def __init__(
        self, graph: Graph, tensors: dict[str, torch.Tensor], config: dict[str, Any]
    ) -> None:
        self.graph, self.tensors, self.config = graph, tensors, config

    def __call__(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        with torch.no_grad():
            return execute(self.graph, inputs)

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` and ``config.json``."""
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        text = json.dumps(self.config, indent=2, sort_keys=True) + "\n"
        (folder / CONFIG).write_text(text, encoding="utf-8")


def lower(graph: Graph) -> CheckpointRunner:
    """The graph's weights as the checkpoint that it was traced from.

    Raises:
        TargetError: It was not traced from a Hugging Face model, or there is no place for
            something in it.
    """
    writer = Writer(graph)
    tensors, config = writer.write()
    return CheckpointRunner(writer.written, tensors, config)


def check(graph: Graph) -> None:
    """Raise ``TargetError`` where a graph has what the model's own code has no place for."""
    uses(graph, checkpoint_of(graph).graph)


def load(folder: Path, graph: Graph) -> CheckpointRunner:
    """Refused: the folder is for other programs."""
    raise ArtifactError(
        "a compressed-tensors checkpoint holds the model's weights, not its graph",
        where=str(folder),
        do="transformers.AutoModelForCausalLM.from_pretrained(folder), or serve it with vLLM",
    )
