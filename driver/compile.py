"""The main job: trace, transform and prove, lower, measure."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from ..backends.base import Target
from ..backends.profiles import target as find_target
from ..backends.runner import KeepsState, Runner
from ..ir import Graph, NoDevice, PromiseError, TargetError, formats
from ..ir.interpret import execute
from ..ir.state import answered, entered, left, need_closed
from ..ir.text import line
from ..passes import Context, Pass, apply
from ..passes.journal import Journal, fingerprint
from ..passes.manager import check_order
from . import calibration as data
from .artifact import Artifact
from .capture import capture, capture_decoder
from .convention import constants, output_names
from .decoder import without_unread
from .eager import unlike
from .measure import distance, errors, latency, unfaithful
from .presets import Asked, label, legalized, resolve, with_open_state
from .progress import Bars
from .report import Model, Report

QUANTIZED = ("quantize", "dequantize", "dynamic_quantize", "decode")


def compile(
    model: torch.nn.Module | ExportedProgram | Graph,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    passes: Asked = "exact",
    calibration: Iterable[Any] | None = None,
    target: str = "onnxruntime",
    dynamic_shapes: Any = None,
    cache: bool = False,
    measure: bool = True,
    resume: str | os.PathLike[str] | None = None,
    options: Mapping[str, Any] | None = None,
    release_weights: bool = False,
) -> Artifact:
    """Transform a model, prove what was done, and make it run on a target.

    Args:
        model: A module in eval mode, an exported program, or a graph from ``regauge.trace``.
        args: Example inputs: a tuple of positional ones, or a single tensor.
        kwargs: Example inputs by keyword.
        passes: A preset (of ``passes.PRESETS``, such as ``w8a8``, or ``auto:<bits>``), passes, or a
            list of both.
        calibration: An iterable of inputs: tensor (one argument), tuple (args) or dict (kwargs).
        target: Where it shall run; ``regauge targets`` lists the known.
        dynamic_shapes: Which sizes may vary, as ``torch.export.export`` takes it.
        cache: Whether a causal language model of transformers shall take its keys and values, or
            what else it keeps, and give them back, so that ``Artifact.generate`` goes on from them;
            it is called with token ids. How many sequences and tokens there are, old and new, may
            then vary; of a model that keeps something else, such as the state of a recurrence, a
            call has one new token.
        measure: Whether to measure error and latency on the example.
        resume: A folder that keeps what passes decide as they go. The same call with the same
            folder goes on where one that was interrupted was, and ends with the same bytes.
        options: What the target's lowering takes: a number of ``threads`` (``onnxruntime``,
            ``openvino``); the ``generation`` of the HTP (``qnn``); the ``device``, ``cpu`` or
            ``cuda`` (``torch`` by kernels of our own, ``tvm``), and there the ``arch`` of a GPU and
            how many schedules to time in search of fast ones, ``tune`` (``tvm``). The model before
            the passes, which the latency is compared with, gets the same.
        release_weights: Whether each weight of the model may be freed once it is replaced, for
            models that fill the memory. The module or graph cannot be used any more, whatever
            becomes of the call; latency is not measured, and checkpoints cannot be written.

    Raises:
        RegaugeError: With what is wrong, where, and what to do; the class says the kind.
    """
    place = find_target(target)
    place.check_installed()
    place.check_options(options or {})
    chosen = resolve(passes, place)
    check_order(chosen)
    chosen = legalized(with_open_state(chosen) if cache else chosen, place)
    for step in chosen:
        for name in step.formats:
            place.check_weights(formats.named(name))
        for name in step.activation_codes:
            place.check_activations(name)
    with Bars() as bars:
        with bars.stage("tracing"):
            asked = (model, args, kwargs, dynamic_shapes, release_weights)
            graph, flat, decoder = capture_decoder(*asked) if cache else (*capture(*asked), None)
        compared = measure and flat and not cache and not release_weights
        unequal = ""
        if compared and isinstance(model, torch.nn.Module):
            with bars.stage("comparing the graph with the model"):
                unequal = unlike(graph, flat, model, *data.as_call(args, kwargs))
        place.check_graph(graph)
        with bars.stage("reading calibration data"):
            known = constants(graph, flat) if flat else {}
            batches = data.regrouped(graph, data.read(calibration, graph, known, decoder))
        inputs = flat or (batches[0] if batches else [])
        journal = Journal()
        if resume is not None:
            facts = _facts_of_run(graph, chosen, inputs, batches, place)
            journal = Journal.of_run(Path(resume), facts)
        context = Context(
            inputs=inputs,
            calibration=batches,
            unsigned_activations=place.unsigned_activations,
            pairs_in_16_bits=place.pairs_in_16_bits,
            closed_convolutions=place.closed_convolutions,
            check=place.check_graph,
            journal=journal,
            progress=bars.track,
        )
        try:
            final, runner, report = _build(
                graph,
                chosen,
                context,
                place,
                bars,
                options or {},
                measure=measure,
                release=release_weights,
            )
        except PromiseError as error:
            raise _with_evidence(error) from None
    report.asked = label(passes)
    report.notes += [unequal] if unequal else []
    report.model.name = "graph" if isinstance(model, Graph) else type(model).__name__
    if decoder is not None:  # of the form in which passes have left its state
        decoder = decoder.within(final)
        report.notes += [decoder.one_by_one] if decoder.one_by_one else []
        if report.errors:
            part = "last token" if decoder.one_by_one else "second half"
            report.notes.append(
                f"errors are of the {part} of the example, behind a cache that the original "
                "filled; behind one of its own they add up"
            )
        if isinstance(runner, KeepsState) and runner.copies:
            report.notes.append(f"caches are copied at each token: {runner.copies}")
    return Artifact(final, runner, place, report, known, decoder=decoder)


def _facts_of_run(
    graph: Graph,
    chosen: Sequence[Pass],
    inputs: Sequence[Any],
    batches: Sequence[Sequence[Any]],
    place: Target,
) -> dict[str, str]:
    """What decisions depend on; a run in which any of it is another has others."""
    weights = [value for name in graph.params for value in (name, graph.store[name])]
    return {
        "version of Regauge": importlib.metadata.version("regauge"),
        "version of PyTorch": torch.__version__,
        "model": fingerprint([str(graph), *weights]),
        "example inputs": fingerprint(list(inputs)),
        "calibration data": fingerprint([value for batch in batches for value in batch]),
        "passes": fingerprint([list(chosen)]),
        "target": place.name,
    }


def _with_evidence(error: PromiseError) -> PromiseError:
    """The error with what a defect report needs written to a file, which it names."""
    folder = Path(tempfile.mkdtemp(prefix="regauge-defect-"))
    path = folder / "evidence.txt"
    path.write_text(error.evidence, encoding="utf-8")
    do = f"{error.do}; the graphs before and after are in {path}"
    return PromiseError(error.what, where=error.where, do=do, evidence=error.evidence)


def _build(
    graph: Graph,
    chosen: Sequence[Pass],
    context: Context,
    place: Target,
    bars: Bars,
    options: Mapping[str, Any],
    *,
    measure: bool,
    release: bool,
) -> tuple[Graph, Runner, Report]:
    """Run the passes, lower what they made, and measure it."""
    flat, dtype, wanted = context.inputs if measure else [], _working_dtype(graph), None
    if release and (flat or not graph.inputs):
        with torch.no_grad():
            wanted = execute(graph, flat)
    with bars.stage("passes, each checked against its promise"):
        final, records = apply(graph, chosen, context, dtype=dtype, release=release)
        need_closed(final, f"target {place.name!r}")
        final = without_unread(final)
    with bars.stage(f"lowering to {place.name}"):
        runner = place.lower(final, progress=bars.track, **options)
    report = Report(
        model=_facts(graph, final),
        target=place.name,
        passes=records,
        bytes_after=runner.bytes,
        notes=list(runner.notes),
        environment=environment(place),
    )
    with bars.stage("measuring"):
        _measure(report, graph, final, runner, place, flat, options, wanted)
    return final, runner, report


def _working_dtype(graph: Graph) -> torch.dtype:
    """The floating-point dtype of most of the weights."""
    found: dict[torch.dtype, int] = {}
    for name in graph.params:
        dtype = graph.store.type(name).dtype
        if dtype.is_floating_point:
            found[dtype] = found.get(dtype, 0) + graph.store.bytes([name]) // dtype.itemsize
    return max(found, key=lambda dtype: found[dtype], default=torch.float32)


def _facts(graph: Graph, final: Graph) -> Model:
    names = [name for name in graph.params if graph.store.type(name).dtype.is_floating_point]
    return Model(
        name="graph",
        parameters=sum(graph.store.bytes([n]) // graph.store.type(n).dtype.itemsize for n in names),
        bytes=graph.store.bytes(),
        ops=len(graph.nodes),
        ops_after=len(final.nodes),
        inputs=[line(node) for node in graph.inputs],
    )


def _measure(
    report: Report,
    graph: Graph,
    final: Graph,
    runner: Runner,
    place: Target,
    flat: Sequence[Any],
    options: Mapping[str, Any],
    known: tuple[Any, ...] | None,
) -> None:
    """Fill in error and latency, or say why they are missing.

    Args:
        known: What the original gives, where its weights were released.
    """
    if not flat and graph.inputs:
        report.notes.append("error and latency were not measured")
        return
    if final.restarts:
        report.notes.append(
            "error and latency were not measured: the example has the state of the model, which "
            "this graph keeps in a form that cannot be told from it"
        )
        return
    with torch.no_grad():
        wanted = execute(graph, flat) if known is None else known
        ready = entered(final, flat)
        meant = execute(final, ready) if known is None else None
        try:
            found = runner(ready)
        except NoDevice as error:
            report.notes.append(f"error and latency were not measured: {error.what}")
            return
        sides = left(final, found), wanted, output_names(graph)
        report.errors = errors(*(answered(graph, side) for side in sides))
        if meant is not None:
            _check_target(report, place, found, meant, (final, wanted))
    if simulated := _simulated(final, runner, place):
        report.notes.append(f"{simulated}: the error is real, and a latency would say nothing")
        return
    if known is not None:
        report.notes.append(
            "latency was not measured: the weights of the original, beside which it is taken, "
            "were released"
        )
        return
    before, baseline = _baseline(graph, place, options)
    report.latency = latency(lambda: before(flat), lambda: runner(ready), baseline)
    report.notes.append("error and latency are of the example inputs, on this machine")


def _simulated(final: Graph, runner: Runner, place: Target) -> str:
    """What of a target is simulated here; empty where all of it runs."""
    known = getattr(runner, "simulates", None)
    if known:
        return f"what runs on {place.name} is simulated here"
    if known is None and place.simulates and any(node.op in QUANTIZED for node in final.nodes):
        return f"arithmetic on codes is simulated on {place.name}"
    return ""


def _check_target(
    report: Report,
    place: Target,
    found: tuple[Any, ...],
    meant: tuple[Any, ...],
    original: tuple[Graph, tuple[Any, ...]],
) -> None:
    """Note how far a target is from its graph, and warn where that is no rounding."""
    final, wanted = original
    report.faithful = distance(found, meant)
    if said := unfaithful(left(final, found), left(final, meant), wanted):
        text = f"{place.name} {said}"
        report.notes.append(text)
        do = "compile for another target, and report it with the model"
        warnings.warn(f"{text}\n  do  {do}", RuntimeWarning, stacklevel=2)


def _baseline(graph: Graph, place: Target, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The original on the same target; where the target does not take it, in PyTorch."""
    try:
        return place.lower(graph, **options), f"the traced model on {place.name}, without any pass"
    except TargetError:
        from ..backends.torch_eager import lower

        return lower(graph), f"the traced model in PyTorch, as {place.name} does not take it"


def environment(place: Target) -> dict[str, str]:
    """What the figures depend on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    found |= {"processor": _processor(), "threads": str(torch.get_num_threads())}
    for package in ("regauge", "torch", *place.requires):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for row in file:
                if row.startswith("model name"):
                    return row.partition(":")[2].strip()
    return platform.processor()
