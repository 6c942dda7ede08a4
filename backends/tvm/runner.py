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
from ..outputs import Outputs
from .emit import MAIN, Program, emit, fed

LIBRARY, WEIGHTS = "model.so", "weights.safetensors"
LINKERS = ("c++", "g++", "clang++")  # a library is linked by one of them; nothing is compiled


class TvmRunner:
    """A compiled module with its weights.

    Args:
        compiled: What TVM's virtual machine runs.
        weights: The function's last arguments, in the order of their names.
        graph: What was lowered: its inputs and outputs say what the function's are.
        notes: What a report says of it.
    """

    def __init__(
        self,
        compiled: Any,
        weights: dict[str, torch.Tensor],
        graph: Graph,
        notes: Sequence[str] = (),
    ) -> None:
        tvm: Any = import_module("tvm")
        self.notes = tuple(notes)
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

    def save(self, folder: Path) -> None:
        """Write ``model.so`` and ``weights.safetensors``; raises ``TargetError``."""
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


def lower(graph: Graph) -> TvmRunner:
    """The graph as compiled code of this processor."""
    program = emit(graph)
    return TvmRunner(_built(program), program.weights, graph)


def load(folder: Path, graph: Graph) -> TvmRunner:
    """The saved library with its weights."""
    tvm: Any = import_module("tvm")
    compiled = tvm.runtime.load_module(str(folder / LIBRARY))
    return TvmRunner(compiled, load_file(folder / WEIGHTS), graph)


def host() -> Any:
    """This processor as TVM's target."""
    tvm: Any = import_module("tvm")
    cpu = tvm.target.codegen.llvm_get_system_cpu()
    return tvm.target.Target({"kind": "llvm", "mcpu": cpu})


def _built(program: Program) -> Any:
    tvm: Any = import_module("tvm")
    target = host()
    return tvm.relax.build(program.module, target=target, relax_pipeline=_pipeline(target))


def _pipeline(target: Any) -> Any:
    tvm: Any = import_module("tvm")
    return tvm.relax.backend.cpu_generic.get_default_pipeline(target)
