"""ONNX Runtime: the graph as an ONNX model in the form that it runs fastest on the CPU, which other
execution providers take as well."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..ir import Graph, Node, TargetError
from ..ir.state import find_caches, find_state
from .onnx import WIDE_SUMS, ModelFile, emit
from .onnx.forms.cached import Unfit, find_fits
from .onnx.half import computed, stored
from .onnx.runner import OnnxRunner, check_precision
from .onnx.sparse import without_zeros
from .onnx.state import BoundSteps, Past
from .pages import in_huge_pages
from .runner import Steps

HALF = "float16"
# Where a provider fails, Python's session is by default made anew on the CPU.
NO_FALLBACK: dict[str, Any] = {"enable_fallback": 0}
_CPU = "CPUExecutionProvider"


class OnnxRuntimeRunner(OnnxRunner):
    """An inference session; tensors go in and come out without being copied where that is possible.

    Args:
        model: What is read.
        graph: What was lowered: its inputs and outputs say what the session's are.
        threads: How many threads one op may use; all cores where not given.
        providers: ONNX Runtime's execution providers, the first that takes an op runs it; the CPU
            comes last by itself.
        notes: What a report says of the model.

    Raises:
        TargetError: ONNX Runtime does not take the model, or has no such provider.
    """

    def __init__(
        self,
        model: ModelFile,
        graph: Graph,
        *,
        threads: int | None = None,
        providers: str | Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(model, graph)
        self.threads, self.providers, self.notes = threads, _known(providers), tuple(notes)
        with in_huge_pages() if find_caches(graph) else contextlib.nullcontext():
            self._session = self._open()
        self._given = [info.name for info in self._session.get_outputs()]
        names = [info.name for info in self._session.get_inputs()]
        self._fed = set(names)
        more = [name for name in names if name not in self._names]
        self._past = Past(graph, *more) if more else None

    @property
    def copies(self) -> str:
        """Why caches are copied at each call; empty where they stay."""
        if self._past is not None or not find_state(self._graph):
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
        grown = {cache.past.name for cache in find_caches(self._graph)}
        outputs = {name: name_of[place] for name, place in state.items()}
        return BoundSteps(
            self._session,
            self._run_bound,
            past=self._past,
            ids=ids,
            scores=(name_of[scores], self._graph.outputs[scores]),
            state={name: output for name, output in outputs.items() if name in grown},
            turns={name: output for name, output in outputs.items() if name not in grown},
            given=given,
            capacity=capacity,
            to_runtime=_to_runtime,
        )

    def _open(self) -> Any:
        import onnxruntime

        try:
            return _session(self.model, self.threads, self.providers)
        except TargetError:
            raise
        except Exception as error:
            instead = self._instead("pip install --upgrade onnxruntime, or target='torch'")
            who = f"ONNX Runtime {onnxruntime.__version__}"
            raise self._not_taken(who, reason(error), error, instead) from error

    def _run(self, feeds: Mapping[str, Any]) -> Iterable[torch.Tensor]:
        return self._once(feeds) if self._past is None else self._past.run(feeds, self._once)

    def _once(self, feeds: Mapping[str, Any]) -> list[torch.Tensor]:
        ready = {name: _to_runtime(value) for name, value in feeds.items()}
        with self._running():
            found = self._session.run_with_ort_values(self._given, ready)
        return [_from_runtime(value) for value in found]

    def _run_bound(self, bound: Any) -> None:
        with self._running():
            self._session.run_with_iobinding(bound)

    @contextlib.contextmanager
    def _running(self) -> Generator[None]:
        """Says where the runtime stops."""
        try:
            yield
        except Exception as error:  # its classes are all plain exceptions
            raise TargetError(
                f"ONNX Runtime stopped: {reason(error)}",
                where=self._named_in(error),
                do="compile for target='torch', if the model takes these inputs",
            ) from error


def lower(
    graph: Graph,
    *,
    threads: int | None = None,
    half: str | None = None,
    sparse: bool = False,
    providers: str | Sequence[str] = (),
) -> OnnxRuntimeRunner:
    """The graph as a session.

    Args:
        half: ``float16`` for half precision: on the CPU, which computes in float32, of what is
            stored; on other providers of what is computed, but for norms, softmax and sums.
        sparse: Store weights with many zeros without these; they are dense again once they are
            loaded, which takes longer.
        providers: Execution providers, such as ``CUDAExecutionProvider``, by name or several with
            commas between them.

    Raises:
        TargetError: There is no such precision or provider, or an op has no ONNX form.
    """
    if half not in (None, HALF):
        raise TargetError(
            f"target 'onnxruntime' has no half precision {half!r}", do=f"give {HALF!r}"
        )
    if _known(providers) == [_CPU]:
        check_precision(graph, "ONNX Runtime has no kernels for on a CPU")
    model, notes = emit(graph), list[str]()
    if half is not None:
        if _known(providers) == [_CPU]:
            notes = stored(model)
        else:
            model, notes = computed(model)
    if sparse:
        notes += without_zeros(model)
    return OnnxRuntimeRunner(
        ModelFile.of(model), graph, threads=threads, providers=providers, notes=notes
    )


def load(
    folder: Path,
    graph: Graph,
    *,
    threads: int | None = None,
    providers: str | Sequence[str] = (),
) -> OnnxRuntimeRunner:
    """The session of a saved model."""
    return OnnxRuntimeRunner(ModelFile.within(folder), graph, threads=threads, providers=providers)


def _known(providers: str | Sequence[str]) -> list[str]:
    """The names of providers, the CPU's at the end; raises ``TargetError`` for one not there."""
    import onnxruntime  # only where it is used: it takes a while to load

    given = providers.split(",") if isinstance(providers, str) else providers
    names = [name.strip() for name in given if name]
    available = onnxruntime.get_available_providers()
    if missing := [name for name in names if name not in available]:
        raise TargetError(
            f"this ONNX Runtime has no {missing[0]}",
            do=f"choose of {', '.join(available)}; the extra 'gpu' of regauge has NVIDIA's",
        )
    return [*(name for name in names if name != _CPU), _CPU]


def _session(model: ModelFile, threads: int | None, providers: list[str]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, warnings are about its own optimizer
    if threads is not None:
        options.intra_op_num_threads = threads
    source = model.source if isinstance(model.source, bytes) else str(model.source)
    session = onnxruntime.InferenceSession(source, options, providers, **NO_FALLBACK)
    if WIDE_SUMS.items() <= session.get_modelmeta().custom_metadata_map.items():
        # the slower kernels where there is no VNNI; elsewhere it changes nothing
        options.add_session_config_entry("session.x64quantprecision", "1")
        session = onnxruntime.InferenceSession(source, options, providers, **NO_FALLBACK)
    if absent := [name for name in providers if name not in session.get_providers()]:
        # which it says nowhere but in its log
        raise TargetError(
            f"ONNX Runtime could not start its {absent[0]}, and would run the model without it",
            do="check that this machine has the device and the libraries that the provider needs "
            "(CUDA and cuDNN for NVIDIA's), or leave out the option 'providers'",
        )
    return session


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
