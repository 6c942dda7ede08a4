"""XNNPACK by ExecuTorch: the kernels of phones' processors, which run here as well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ...ir import Graph
from ..outputs import Outputs
from .program import exported, host_ops, refuse, without_warnings

MODEL = "model.pte"


class XnnpackRunner:
    """A program in ExecuTorch's runtime.

    Args:
        program: The bytes of a ``.pte`` file.
        graph: What was lowered: its outputs say what the program's are.
        notes: What a report says of it.
    """

    def __init__(self, program: bytes, graph: Graph, notes: Sequence[str] = ()) -> None:
        self.program, self.notes = program, tuple(notes)
        self._outputs = Outputs(graph)
        import_module("executorch.kernels.quantized")
        runtime: Any = import_module("executorch.runtime")
        self._loaded = runtime.Runtime.get().load_program(program)
        self._method = self._loaded.load_method("forward")

    def __call__(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        given = [torch.as_tensor(value).detach().cpu().contiguous() for value in inputs]
        return self._outputs.of([tensor.clone() for tensor in self._method.execute(given)])

    @property
    def bytes(self) -> int:
        return len(self.program)

    def save(self, folder: Path) -> None:
        """Write ``model.pte``."""
        (folder / MODEL).write_bytes(self.program)


@without_warnings()
def lower(graph: Graph) -> XnnpackRunner:
    """The graph as a program; what XNNPACK has no kernel for runs in ExecuTorch's own."""
    exir: Any = import_module("executorch.exir")
    part: Any = import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    import_module("executorch.kernels.quantized")
    try:
        edge = exir.to_edge_transform_and_lower(
            exported(graph, biases=False), partitioner=[part.XnnpackPartitioner()]
        )
        left = Counter(host_ops(edge.exported_program()))
        program = edge.to_executorch().buffer
    except Exception as error:  # what its passes raise is of many kinds
        raise refuse(error, "ExecuTorch", graph) from error
    notes: list[str] = []
    if left:
        names = ", ".join(f"{count} {name}" for name, count in left.most_common())
        notes.append(f"not by XNNPACK but by ExecuTorch's portable kernels: {names}")
    return XnnpackRunner(program, graph, notes)


def load(folder: Path, graph: Graph) -> XnnpackRunner:
    """The program of a saved artifact."""
    return XnnpackRunner((folder / MODEL).read_bytes(), graph)
