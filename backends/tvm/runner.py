"""A Relax module that TVM has compiled: for the processor at hand, or for a GPU."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ...ir import Graph, TargetError
from ...ir.types import show, symbols
from ..outputs import Outputs
from .build import Library, Source, built, linker, prepared
from .cuda import ARCH, Kernels, gpu, present
from .device import Device
from .emit import MAIN, emit, fed
from .measuring import Clock, Tracker, here
from .processor import has_dots, host
from .reuse import tuned as find
from .tuning import Progress, Records, check_packages, silent

WEIGHTS = "weights.safetensors"
DEVICES = ("cpu", "cuda")
_ALIGNMENT = 64  # bytes: TVM's code reads whole vectors there, and stops the process elsewhere


class TvmRunner:
    """A compiled module with its weights.

    Args:
        library: What TVM's virtual machine runs.
        weights: The function's last arguments, in the order of their names.
        graph: What was lowered: its inputs and outputs say what the function's are.
        notes: What a report says of it.
        records: What its schedules were found by; from these the same code can be built again.
    """

    def __init__(
        self,
        library: Library,
        weights: dict[str, torch.Tensor],
        graph: Graph,
        notes: Sequence[str] = (),
        records: Records | None = None,
    ) -> None:
        self.notes, self.records = tuple(notes), records
        self._library, self._weights = library, dict(sorted(weights.items()))
        taken = set(fed(graph))
        self._fed = [node in taken for node in graph.inputs]
        self._outputs = Outputs(graph)
        self._main: Any = None  # the function, once it was called
        self._held: list[Any] = []  # the weights, where it reads them

    def __call__(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        if self._main is None:
            self._main, self._held = self._started()
        given = [
            self._given(torch.as_tensor(value).detach().cpu().contiguous())
            for value, wanted in zip(inputs, self._fed, strict=True)
            if wanted
        ]
        return self._outputs.of(map(self._taken, self._main(*given, *self._held)))

    def _started(self) -> tuple[Any, list[Any]]:
        tvm: Any = import_module("tvm")
        machine = tvm.relax.VirtualMachine(self._library.open(), tvm.cpu())
        return machine[MAIN], list(map(self._given, self._weights.values()))

    def _given(self, value: torch.Tensor) -> Any:
        if not value.numel():  # TVM multiplies sizes to strides, PyTorch takes zeros for ones
            sizes = value.shape[1:]
            strides = [math.prod(sizes[place:]) for place in range(value.dim())]
            return value.as_strided(value.shape, strides)
        return value if value.data_ptr() % _ALIGNMENT == 0 else value.clone()

    def _taken(self, value: Any) -> torch.Tensor:
        return value

    @property
    def bytes(self) -> int:
        """Of the weights; the code beside them is small."""
        return sum(value.nbytes for value in self._weights.values())

    def source(self, form: str) -> str:
        """The compiled code as text: ``ll`` of LLVM, or ``asm`` of the processor."""
        return "\n".join(part.inspect_source(form) for part in self._library.code.mod.imports)

    def save(self, folder: Path) -> None:
        """Write ``model.so`` and ``weights.safetensors``, and what tuning found beside them.

        Raises:
            TargetError: There is nothing that links a library.
        """
        self._library.save(folder)
        save_file({name: value.clone() for name, value in self._weights.items()}, folder / WEIGHTS)
        if self.records is not None:
            self.records.save(folder)


class CudaRunner(TvmRunner):
    """A module for a GPU, which this machine need not have before it is called.

    Args:
        kernels: The code of the GPU; the library has that of its host.
    """

    def __init__(self, kernels: Kernels, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.kernels = kernels

    def _started(self) -> tuple[Any, list[Any]]:
        arch = present()
        tvm: Any = import_module("tvm")
        if arch != self.kernels.arch:
            self.notes += (f"the kernels for {self.kernels.arch} were compiled anew for {arch}",)
        self.kernels.give()
        machine = tvm.relax.VirtualMachine(self._library.open(), [tvm.cuda(0), tvm.cpu()])
        return machine[MAIN], list(map(self._given, self._weights.values()))

    def _given(self, value: torch.Tensor) -> Any:
        tvm: Any = import_module("tvm")
        return tvm.runtime.tensor(value.numpy(), tvm.cuda(0))

    def _taken(self, value: Any) -> torch.Tensor:
        return torch.from_numpy(value.numpy())

    def save(self, folder: Path) -> None:
        """Write, besides, ``kernels.cu`` and the cubin."""
        super().save(folder)
        self.kernels.save(folder)


def lower(
    graph: Graph,
    *,
    tune: int = 0,
    device: str = "cpu",
    arch: str = ARCH,
    tracker: str = "",
    key: str = "",
    tuned: str = "",
    progress: Progress = silent,
) -> TvmRunner:
    """The graph as compiled code of this processor, or of a GPU.

    Args:
        tune: How many schedules to time in search of the best; none is fast, and the default
            schedules are what runs.
        device: ``cpu`` or ``cuda``.
        arch: Of a GPU, as nvcc names it.
        tracker: Whose servers time the schedules, ``host:port``; by default this machine does.
        key: What these servers are called.
        tuned: The folder of a saved artifact, whose schedules are used where they fit: on the same
            device, with the same release of TVM, for functions of the same code and shapes.
    """
    if device not in DEVICES:
        raise TargetError(
            f"target 'tvm' compiles for no device {device!r}",
            do=f"choose one of: {', '.join(DEVICES)}",
        )
    if not isinstance(tune, int) or tune < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TargetError(
            f"target 'tvm' times a number of schedules, and tune is {tune!r}",
            do="give a number, such as 200; 0 for the default schedules",
        )
    if device == "cpu" and arch != ARCH:
        raise TargetError(
            f"target 'tvm' compiles for this processor, and arch is {arch!r}, of a GPU",
            do="choose options={'device': 'cuda'} as well, or leave out 'arch'",
        )
    place = Tracker.named(tracker, key) if tracker or key else None
    target = host() if device == "cpu" else gpu(arch)
    program = emit(graph, dots=device == "cpu" and has_dots(target))
    module = prepared(program.module, target)
    source = Source.of(module, target)

    def clock() -> Clock:
        check_packages()
        linker()  # of what is timed
        _check_sizes(graph)
        if place is not None:
            return place.clock(target)
        if device == "cuda":
            present()  # on which schedules are timed
        return here()

    found = find(module, target, tune, folder=tuned, clock=clock, progress=progress)
    code = built(found.apply(module, target), target)
    if device == "cpu":
        library = Library(code, source=source)
        return TvmRunner(library, program.weights, graph, found.notes, found.records)
    kernels = Kernels.of(code, arch)
    notes = [*found.notes, kernels.note]
    return CudaRunner(kernels, Library(code), program.weights, graph, notes, found.records)


def load(folder: Path, graph: Graph) -> TvmRunner:
    """The saved library with its weights; one for another processor is compiled anew, with a
    warning."""
    library, weights = Library.within(folder), load_file(folder / WEIGHTS)
    records, kernels = Records.within(folder), Kernels.within(folder)
    if kernels is not None:
        return CudaRunner(kernels, library, weights, graph, records=records)
    if library.source is None or library.source.device.name == Device.of(host()).name:
        return TvmRunner(library, weights, graph, records=records)
    note = (
        f"{folder}: model.so was compiled for {library.source.device}, and this is "
        f"{Device.of(host())}: it is compiled anew, every function with its default schedule"
    )
    warnings.warn(note, RuntimeWarning, stacklevel=2)
    return TvmRunner(library.source.compiled(host()), weights, graph, [note])


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
