"""ONNX Runtime on the CPU: the graph as an ONNX model in the form that it runs fastest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..ir import Graph, Node, TargetError
from ..ir.state import find_caches
from .onnx import WIDE_SUMS, ModelFile, emit
from .onnx.forms.cached import Unfit, find_fits
from .onnx.runner import OnnxRunner
from .onnx.state import BoundSteps, Past
from .pages import in_huge_pages
from .runner import Steps


class OnnxRuntimeRunner(OnnxRunner):
    """An inference session; tensors go in and come out without being copied where that is possible.

    Args:
        model: What is read.
        graph: What was lowered: its inputs and outputs say what the session's are.
        threads: How many threads one op may use; all cores where not given.

    Raises:
        TargetError: ONNX Runtime does not take the model.
    """

    def __init__(self, model: ModelFile, graph: Graph, *, threads: int | None = None) -> None:
        self.threads = threads
        with in_huge_pages() if find_caches(graph) else contextlib.nullcontext():
            self._session = self._open(model)
        self._given = [info.name for info in self._session.get_outputs()]
        names = [info.name for info in self._session.get_inputs()]
        super().__init__(model, graph, names)
        self._graph = graph
        more = [name for name in names if name not in self._names]
        self._past = Past(graph, *more) if more else None

    @property
    def copies(self) -> str:
        """Why caches are copied at each call; empty where they stay."""
        if self._past is not None:
            return ""
        try:
            find_fits(self._graph)
        except Unfit as unfit:
            return str(unfit)
        return "they reach no attention that the runtime has as one op"

    def steps(
        self,
        ids: str,
        scores: int,
        state: Mapping[str, int],
        given: Mapping[str, Any],
        capacity: int,
    ) -> Steps | None:
        """Begin with no tokens, in buffers that stay; ``None`` where caches have to be copied."""
        if self._past is None or not isinstance(self._graph.outputs[scores].shape[-1], int):
            return None
        values = [place for place, arg in enumerate(self._graph.outputs) if isinstance(arg, Node)]
        name_of = dict(zip(values, self._given, strict=True))
        return BoundSteps(
            self._session,
            past=self._past,
            ids=ids,
            scores=(name_of[scores], self._graph.outputs[scores]),
            state={name: name_of[place] for name, place in state.items()},
            given=given,
            capacity=capacity,
            to_runtime=_to_runtime,
        )

    def _open(self, model: ModelFile) -> Any:
        return _session(model, self.threads)

    def _run(self, feeds: Mapping[str, Any]) -> Iterable[torch.Tensor]:
        return self._once(feeds) if self._past is None else self._past.run(feeds, self._once)

    def _once(self, feeds: Mapping[str, Any]) -> list[torch.Tensor]:
        ready = {name: _to_runtime(value) for name, value in feeds.items()}
        try:
            found = self._session.run_with_ort_values(self._given, ready)
        except Exception as error:  # its classes are all plain exceptions
            raise TargetError(f"ONNX Runtime stopped: {reason(error)}") from error
        return [_from_runtime(value) for value in found]


def lower(graph: Graph, *, threads: int | None = None) -> OnnxRuntimeRunner:
    """The graph as a session."""
    return OnnxRuntimeRunner(ModelFile.of(emit(graph)), graph, threads=threads)


def load(folder: Path, graph: Graph, *, threads: int | None = None) -> OnnxRuntimeRunner:
    """The session of a saved model."""
    return OnnxRuntimeRunner(ModelFile.within(folder), graph, threads=threads)


def _session(model: ModelFile, threads: int | None) -> Any:
    import onnxruntime  # only where it is used: it takes a while to load

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings are about its own optimizer
    if threads is not None:
        options.intra_op_num_threads = threads
    source = model.source if isinstance(model.source, bytes) else str(model.source)
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
            f"ONNX Runtime {onnxruntime.__version__} does not take the model: {reason(error)}",
            where=str(model),
            do="pip install --upgrade onnxruntime, or compile for target='torch'",
        ) from error


def reason(error: Exception) -> str:
    """Why it stopped, in its own words."""
    return str(error).strip().splitlines()[0].removeprefix("[ONNXRuntimeError] : ")


def _to_runtime(value: Any) -> Any:
    from onnxruntime import OrtValue

    tensor = torch.as_tensor(value).detach().cpu().contiguous()
    if tensor.dtype == torch.bool:  # DLPack has it under another code
        return OrtValue.ortvalue_from_numpy(tensor.numpy())
    return OrtValue.from_dlpack(tensor)


def _from_runtime(value: Any) -> torch.Tensor:
    if value.data_type() == "tensor(bool)":
        return torch.from_numpy(value.numpy())
    return torch.from_dlpack(value)
