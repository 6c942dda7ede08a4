"""OpenVINO on the CPU: the graph as an ONNX model of standard ops, whose codes its own passes fuse.

Codes are multiplied as integers, the rest is computed in float32. Left to itself, OpenVINO takes
bf16 where the processor has it, and rounds what meets weights of few bits to codes of its own where
the processor has VNNI; no promise was checked for either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ..ir import Graph, Node, TargetError, TensorType
from .onnx import Dialect, ModelFile, emit
from .onnx.runner import OnnxRunner, check_precision

DIALECT = Dialect.of("openvino")


class OpenVinoRunner(OnnxRunner):
    """A compiled model.

    Args:
        model: What is read.
        graph: What was lowered: its inputs and outputs say what the model's are.
        threads: How many threads it may use; all cores where not given.
        dynamic_quantization: How many values share a scale where OpenVINO rounds what meets weights
            without codes for activations, which is faster and an error of its own; 0 for not at
            all.

    Raises:
        TargetError: OpenVINO does not take the model.
    """

    def __init__(
        self,
        model: ModelFile,
        graph: Graph,
        *,
        threads: int | None = None,
        dynamic_quantization: int = 0,
    ) -> None:
        super().__init__(model, graph)
        if wide := [node.name for node in graph.nodes if _is_wide(node)]:
            more = f" and {len(wide) - 3} more" if len(wide) > 3 else ""
            names = ", ".join(wide[:3])
            self.notes = (f"in float64, which OpenVINO computes in float32: {names}{more}",)
        self._compiled = self._compile(threads, dynamic_quantization)
        self._fed = {name for port in self._compiled.inputs for name in port.names}

    def _compile(self, threads: int | None, group: int) -> Any:
        openvino: Any = import_module("openvino")  # only where it is used: not everyone has it
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": group,
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        core, source = openvino.Core(), self.model.source
        try:
            if isinstance(source, bytes):
                read = core.read_model(source, b"")
            else:
                read = core.read_model(str(source))
            return core.compile_model(read, "CPU", settings)
        except RuntimeError as error:
            instead = self._instead("compile for target='onnxruntime'")
            who = f"OpenVINO {openvino.__version__}"
            raise self._not_taken(who, _reason(error), error, instead) from error

    def _run(self, feeds: Mapping[str, Any]) -> Iterator[torch.Tensor]:
        try:
            found = self._compiled({name: _to_runtime(value) for name, value in feeds.items()})
        except RuntimeError as error:
            raise TargetError(
                f"OpenVINO stopped: {_reason(error)}",
                where=self._named_in(error),
                do="compile for target='onnxruntime'",
            ) from error
        return (torch.from_numpy(found[port].copy()) for port in found)

    @property
    def executed(self) -> list[tuple[str, str]]:
        """What runs, op by op: its kind and the precision that it computes in."""
        facts = [op.get_rt_info() for op in self._compiled.get_runtime_model().get_ordered_ops()]
        names = ("layerType", "runtimePrecision")
        return [(fact[names[0]].astype(str), fact[names[1]].astype(str)) for fact in facts]


def lower(
    graph: Graph, *, threads: int | None = None, dynamic_quantization: int = 0
) -> OpenVinoRunner:
    """The graph as a compiled model.

    Raises:
        TargetError: There are complex numbers, which OpenVINO's importer of ONNX takes pairs of
            numbers for behind some ops and not others; or numbers in bfloat16.
    """
    check_precision(graph, "OpenVINO's Python interface does not take")
    for node in graph.nodes:
        if isinstance(node.type, TensorType) and node.dtype.is_complex:
            raise TargetError(
                f"{node.name} is complex, which OpenVINO computes wrong behind some ops",
                where=node.at,
                do="compute it before or behind the model, or compile for target='onnxruntime'",
            )
    model = ModelFile.of(emit(graph, DIALECT))
    return OpenVinoRunner(model, graph, threads=threads, dynamic_quantization=dynamic_quantization)


def load(
    folder: Path, graph: Graph, *, threads: int | None = None, dynamic_quantization: int = 0
) -> OpenVinoRunner:
    """The compiled model of a saved one."""
    model = ModelFile.within(folder)
    return OpenVinoRunner(model, graph, threads=threads, dynamic_quantization=dynamic_quantization)


def _is_wide(node: Node) -> bool:
    return isinstance(node.type, TensorType) and node.dtype == torch.float64


def _reason(error: Exception) -> str:
    """The last line that says something; those before it name OpenVINO's own files."""
    rows = [row.strip() for row in str(error).splitlines() if row.strip()]
    return rows[-1] if rows else type(error).__name__


def _to_runtime(value: Any) -> Any:
    return torch.as_tensor(value).detach().cpu().contiguous().numpy()
