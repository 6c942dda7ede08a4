"""ONNX Runtime on the CPU: the graph as an ONNX model in the form that it runs fastest."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto

from ..ir import Graph, Node, ScalarType, TargetError
from .onnx import WIDE_SUMS, emit, is_large, save

MODEL = "model.onnx"


class OnnxRuntimeRunner:
    """An inference session; tensors go in and come out without being copied where that is possible.

    Args:
        model: A model file with its weights beside it or inside, or a serialized model.
        graph: What was lowered: its inputs and outputs say what the session's are.
        threads: How many threads one op may use; all cores where not given.

    Raises:
        TargetError: ONNX Runtime does not take the model.
    """

    def __init__(self, model: Path | bytes, graph: Graph, *, threads: int | None = None) -> None:
        self.model = model
        self.threads = threads
        self._inputs = [node.type for node in graph.inputs]
        self._names = [node.name for node in graph.inputs]
        self._constants = [None if isinstance(arg, Node) else (arg,) for arg in graph.outputs]
        self._scalars = [
            isinstance(a, Node) and isinstance(a.type, ScalarType) for a in graph.outputs
        ]
        self._session = _session(model, threads)
        self._fed = {info.name for info in self._session.get_inputs()}
        self._outputs = [info.name for info in self._session.get_outputs()]

    def __call__(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        feeds = {
            name: _to_runtime(value)
            for name, value in zip(self._names, inputs, strict=True)
            if name in self._fed
        }
        try:
            found = iter(self._session.run_with_ort_values(self._outputs, feeds))
        except Exception as error:  # its classes are all plain exceptions
            raise TargetError(f"ONNX Runtime stopped: {_reason(error)}") from error
        return tuple(
            constant[0] if constant is not None else _from_runtime(next(found), scalar)
            for constant, scalar in zip(self._constants, self._scalars, strict=True)
        )

    @property
    def bytes(self) -> int:
        if isinstance(self.model, bytes):
            return len(self.model)
        return sum(path.stat().st_size for path in _files(self.model))

    def save(self, folder: Path) -> None:
        """Write ``model.onnx``, and ``model.weights`` where the weights are large."""
        if isinstance(self.model, bytes):
            (folder / MODEL).write_bytes(self.model)
            return
        for path in _files(self.model):
            shutil.copyfile(path, folder / path.name)


def lower(graph: Graph, *, threads: int | None = None) -> OnnxRuntimeRunner:
    """The graph as a session."""
    model = emit(graph)
    if not is_large(model):
        return OnnxRuntimeRunner(
            model.SerializeToString(deterministic=True), graph, threads=threads
        )
    return _from_disk(model, graph, threads)


def load(folder: Path, graph: Graph, *, threads: int | None = None) -> OnnxRuntimeRunner:
    """The session of a saved model."""
    return OnnxRuntimeRunner(folder / MODEL, graph, threads=threads)


def _from_disk(model: ModelProto, graph: Graph, threads: int | None) -> OnnxRuntimeRunner:
    """A session of a model that no protobuf message holds; its files go when the runner goes."""
    folder = Path(tempfile.mkdtemp(prefix="regauge-"))
    try:
        runner = OnnxRuntimeRunner(save(model, folder / MODEL)[0], graph, threads=threads)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(runner, shutil.rmtree, folder, ignore_errors=True)
    return runner


def _files(path: Path) -> list[Path]:
    return [path, *(p for p in [path.with_suffix(".weights")] if p.exists())]


def _session(model: Path | bytes, threads: int | None) -> Any:
    import onnxruntime  # only where it is used: it takes a while to load

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings are about its own optimizer
    if threads is not None:
        options.intra_op_num_threads = threads
    source = model if isinstance(model, bytes) else str(model)
    cpu = ["CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(source, options, providers=cpu)
        if WIDE_SUMS.items() <= session.get_modelmeta().custom_metadata_map.items():
            # the slower kernels where there is no VNNI; elsewhere it changes nothing
            options.add_session_config_entry("session.x64quantprecision", "1")
            session = onnxruntime.InferenceSession(source, options, providers=cpu)
        return session
    except Exception as error:
        raise TargetError(
            f"ONNX Runtime {onnxruntime.__version__} does not take the model: {_reason(error)}",
            where="" if isinstance(model, bytes) else str(model),
            do="pip install --upgrade onnxruntime, or compile for target='torch'",
        ) from error


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0].removeprefix("[ONNXRuntimeError] : ")


def _to_runtime(value: Any) -> Any:
    from onnxruntime import OrtValue

    tensor = torch.as_tensor(value).detach().cpu().contiguous()
    if tensor.dtype == torch.bool:  # DLPack has it under another code
        return OrtValue.ortvalue_from_numpy(tensor.numpy())
    return OrtValue.from_dlpack(tensor)


def _from_runtime(value: Any, scalar: bool) -> Any:
    if value.data_type() == "tensor(bool)":
        tensor = torch.from_numpy(value.numpy())
    else:
        tensor = torch.from_dlpack(value)
    return tensor.item() if scalar else tensor
