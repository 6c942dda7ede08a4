"""LiteRT: a graph as a flat buffer (``model.tflite``) for phones, run here by its own kernels.

Codes come as the quantize and dequantize ops that LiteRT's converter fuses; the rest is computed in
float32. Integers of 64 bits stay so, as the graph has them.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections import Counter
from collections.abc import Generator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..ir import Graph, TargetError
from .executorch.program import exported, refuse, without_warnings
from .outputs import Outputs

MODEL = "model.tflite"


class LiteRtRunner:
    """A flat buffer in LiteRT's interpreter.

    Args:
        model: The bytes of a ``.tflite`` file.
        graph: What was lowered: its outputs say what the buffer's are.
        threads: How many threads an op may use.
        notes: What a report says of it.

    Raises:
        TargetError: LiteRT does not take the model.
    """

    def __init__(
        self, model: bytes, graph: Graph, *, threads: int | None = None, notes: Sequence[str] = ()
    ) -> None:
        self.model, self.notes = model, tuple(notes)
        self._graph, self._outputs = graph, Outputs(graph)
        runtime: Any = import_module("ai_edge_litert.interpreter")
        try:
            self._interpreter = runtime.Interpreter(model_content=model, num_threads=threads)
            self._interpreter.allocate_tensors()  # says what it has no kernel for
            self._run = self._interpreter.get_signature_runner()
        except (RuntimeError, ValueError) as error:
            raise refuse(error, "LiteRT", graph) from error
        self._taken, self._made = self._run.get_input_details(), self._run.get_output_details()

    def __call__(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        values = {f"args_{i}": torch.as_tensor(v).detach().cpu() for i, v in enumerate(inputs)}
        taken = self._taken.items()
        found = self._run(**{name: _coded(values[name], detail) for name, detail in taken})
        names = [f"output_{place}" for place in range(len(found))]
        return self._outputs.of(_decoded(found[name], self._made[name]) for name in names)

    @property
    def operators(self) -> Counter[str]:
        """How many of each of LiteRT's operators there are."""
        details = self._interpreter._get_ops_details()  # it has no other way to list them
        return Counter(str(one["op_name"]) for one in details)

    @property
    def bytes(self) -> int:
        return len(self.model)

    def save(self, folder: Path) -> None:
        """Write ``model.tflite``."""
        (folder / MODEL).write_bytes(self.model)


def _coded(value: torch.Tensor, detail: dict[str, Any]) -> Any:
    """An input as the buffer takes it: one that it reads in codes only is given in codes."""
    scale, zero = detail["quantization"]
    if not (scale and value.is_floating_point()):
        return value.numpy()
    info = np.iinfo(detail["dtype"])
    codes = torch.round(value / scale) + zero
    return codes.clamp(info.min, info.max).numpy().astype(detail["dtype"])


def _decoded(value: Any, detail: dict[str, Any]) -> torch.Tensor:
    """An output as the graph gives it."""
    scale, zero = detail["quantization"]
    found = torch.from_numpy(np.array(value))
    return (found.float() - zero) * scale if scale else found


def lower(graph: Graph, *, threads: int | None = None) -> LiteRtRunner:
    """The graph as a flat buffer.

    Args:
        threads: How many threads an op may use here.

    Raises:
        TargetError: LiteRT's converter does not take the model.
    """
    return LiteRtRunner(_converted(graph), graph, threads=threads)


def load(folder: Path, graph: Graph, *, threads: int | None = None) -> LiteRtRunner:
    """The flat buffer of a saved artifact."""
    return LiteRtRunner((folder / MODEL).read_bytes(), graph, threads=threads)


def _converted(graph: Graph) -> bytes:
    with _quiet():
        converter: Any = import_module("litert_torch")
        try:
            program = exported(graph, biases=False, rounded=True)
            inputs, _ = program.example_inputs or ((), {})
            model = converter.convert(
                program.module(check_guards=False),
                tuple(inputs),
                enable_x64=True,
                quant_config=_codes(graph),
            )
            return bytes(model.model_content())
        except TargetError:
            raise
        except Exception as error:  # what its passes raise is of many kinds
            raise refuse(error, "LiteRT's converter", graph) from error


def _codes(graph: Graph) -> Any:
    """What tells the converter to fuse codes that are there."""
    if not any(node.op == "quantize" for node in graph.nodes):
        return None
    pt2e: Any = import_module("litert_torch.quantize.pt2e_quantizer")
    config: Any = import_module("litert_torch.quantize.quant_config")
    scheme = pt2e.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
    return config.QuantConfig(pt2e_quantizer=pt2e.PT2EQuantizer().set_global(scheme))


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Without what the converter prints of its progress."""
    with without_warnings(), contextlib.redirect_stdout(io.StringIO()):
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
