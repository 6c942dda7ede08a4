"""A Relax module that LLVM has compiled for the processor at hand."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ...ir import Graph, TargetError
from ...ir.types import show, symbols
from ..outputs import Outputs
from .emit import MAIN, emit, fed
from .processor import has_dots, host
from .schedule import apply_default
from .tuning import Records, search

LIBRARY, WEIGHTS = "model.so", "weights.safetensors"
LINKERS = ("c++", "g++", "clang++")  # a library is linked by one of them; nothing is compiled


class TvmRunner:
    """A compiled module with its weights.

    Args:
        compiled: What TVM's virtual machine runs.
        weights: The function's last arguments, in the order of their names.
        graph: What was lowered: its inputs and outputs say what the function's are.
        notes: What a report says of it.
        records: What its schedules were found by; from these the same code can be built again.
    """

    def __init__(
        self,
        compiled: Any,
        weights: dict[str, torch.Tensor],
        graph: Graph,
        notes: Sequence[str] = (),
        records: Records | None = None,
    ) -> None:
        tvm: Any = import_module("tvm")
        self.notes, self.records = tuple(notes), records
        self._compiled, self._weights = compiled, dict(sorted(weights.items()))
        taken = set(fed(graph))
        self._fed = [node in taken for node in graph.inputs]
        self._outputs = Outputs(graph)
        self._main = tvm.relax.VirtualMachine(compiled, tvm.cpu())[MAIN]

    def __call__(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        given = [
            torch.as_tensor(value).detach().cpu().contiguous()
            for value, wanted in zip(inputs, self._fed, strict=True)
            if wanted
        ]
        return self._outputs.of(self._main(*given, *self._weights.values()))

    @property
    def bytes(self) -> int:
        """Of the weights; the code beside them is small."""
        return sum(value.nbytes for value in self._weights.values())

    def source(self, form: str) -> str:
        """The compiled code as text: ``ll`` of LLVM, or ``asm`` of the processor."""
        return "\n".join(part.inspect_source(form) for part in self._compiled.mod.imports)

    def save(self, folder: Path) -> None:
        """Write ``model.so`` and ``weights.safetensors``, and what tuning found beside them.

        Raises:
            TargetError: There is nothing that links a library.
        """
        linker = next(filter(None, map(shutil.which, LINKERS)), None)
        if linker is None:
            raise TargetError(
                f"target 'tvm' links a library with one of {', '.join(LINKERS)}, and finds none",
                do="apt-get install g++",
            )
        cc: Any = import_module("tvm.support.cc")
        link = functools.partial(cc.create_shared, cc=linker)
        self._compiled.export_library(str(folder / LIBRARY), fcompile=link)
        save_file({name: value.clone() for name, value in self._weights.items()}, folder / WEIGHTS)
        if self.records is not None:
            self.records.save(folder)


def lower(graph: Graph, *, tune: int = 0, records: Records | None = None) -> TvmRunner:
    """The graph as compiled code of this processor.

    Args:
        tune: How many schedules to time in search of the best; none is fast, and the default
            schedules are what runs.
        records: What an earlier search found, in place of another.
    """
    target = host()
    program = emit(graph, dots=has_dots(target))
    module = prepared(program.module, target)
    if tune and records is None:
        _check_sizes(graph)
        records = search(module, target, tune)
    if records is None:
        note = "not tuned: every function has its default schedule; tune=200 searches for better"
    else:
        module = records.apply(module, target)
        note = f"tuned by MetaSchedule: {records.count} schedules were timed"
    return TvmRunner(_built(module, target), program.weights, graph, [note], records)


def load(folder: Path, graph: Graph) -> TvmRunner:
    """The saved library with its weights."""
    tvm: Any = import_module("tvm")
    compiled = tvm.runtime.load_module(str(folder / LIBRARY))
    weights = load_file(folder / WEIGHTS)
    return TvmRunner(compiled, weights, graph, records=Records.within(folder))


def _check_sizes(graph: Graph) -> None:
    """Raise ``TargetError`` where a size is a symbol: a schedule is timed at one size."""
    for node in graph.inputs:
        if any(symbols(node.type)):
            raise TargetError(
                f"target 'tvm' tunes for sizes that are numbers, and {node.name} is "
                f"{show(node.type)}",
                where=node.at,
                do="compile without dynamic_shapes, or without tune",
            )


def prepared(module: Any, target: Any) -> Any:
    """The module as functions on buffers, which schedules are for."""
    steps: Any = import_module("tvm.relax.backend.cpu_generic.pipeline")
    relax: Any = import_module("tvm.relax")
    with target:
        module = relax.transform.DeadCodeElimination()(module)
        for step in (*steps.library_dispatch_passes(target), *steps.legalize_passes(target)):
            module = step(module)
    return module


def _built(module: Any, target: Any) -> Any:
    """The module as code, with a schedule for each function that has none."""
    tvm: Any = import_module("tvm")
    steps: Any = import_module("tvm.relax.backend.cpu_generic.pipeline")
    with target:
        module = apply_default(module)
        for step in (*steps.dataflow_lower_passes(target), *steps.finalize_passes(target)):
            module = step(module)
    return tvm.relax.build(module, target=target, relax_pipeline=None)
