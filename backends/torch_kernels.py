"""PyTorch on a GPU, with our kernels for the regions that have one and ``torch.compile`` for the
rest.

What is saved is the graph before it is divided, so nothing in it is made for one device; which
options were fastest lies beside it, and is measured anew on another device.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ..codegen import partition, tuning
from ..codegen.op import spelled
from ..ir import Graph, TargetError, ops
from . import weight_file
from .torch_eager import SETTINGS, WEIGHTS

HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
OLDEST = 80  # whose tensor cores multiply bfloat16


@dataclass(frozen=True)
class Settings:
    """The options of ``torch_eager.lower``, of which only the device must be given."""

    device: str
    half: str | None = None
    tries: int = 12
    fuse: bool | None = None

    def __post_init__(self) -> None:
        if self.half is not None and self.half not in HALVES:
            raise TargetError(
                f"kernels compute in no {self.half!r}", do=f"choose of {', '.join(HALVES)}"
            )
        if self.tries < 0:
            raise TargetError(f"a kernel cannot time {self.tries} options", do="give 0 or more")


class KernelRunner:
    """A graph on a device.

    Args:
        graph: With its weights on the CPU.
        settings: How.

    Attributes:
        division: Which kernels there are, and why not more.
        module: What runs: flat inputs to flat outputs.
    """

    def __init__(self, graph: Graph, settings: Settings) -> None:
        self.graph, self.settings = graph, settings
        self.device = device_named(settings.device)
        self._about = tuning.device_of(self.device)
        check_compilers(self.device)
        self.division = partition.divide(
            graph,
            capability=self._about.capability,
            half=None if settings.half is None else HALVES[settings.half],
            tries=settings.tries,
        )
        _place(self.division.graph, self.device)
        flat: Any = self.division.graph.to_module()
        self.module: Any = flat.flat.to(self.device)
        self.simulates = self.device.type == "cpu"
        fuse = self.device.type == "cuda" if settings.fuse is None else settings.fuse
        self._run: Any = torch.compile(self.module, dynamic=False) if fuse else self.module
        self.fused = fuse

    def __call__(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """On the device; what is given on another is taken there, and the results back."""
        tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
        home = tensors[0].device if tensors else self.device
        there = [v.to(self.device) if isinstance(v, torch.Tensor) else v for v in inputs]
        with torch.no_grad():
            found = self._run(*there)
        return tuple(v.to(home) if isinstance(v, torch.Tensor) else v for v in found)

    def save(self, folder: Path) -> None:
        weights = {name: self.graph.store[name] for name in self.graph.params}
        weight_file.write(weights, folder / WEIGHTS)
        regions = {spelled(part.region): part.region for part in self.division.placed}
        kept = {"settings": asdict(self.settings), "tuned": None}
        if self.device.type == "cuda":
            kept["tuned"] = tuning.shared(self._about).kept(regions)
        (folder / SETTINGS).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")

    @property
    def bytes(self) -> int:
        return weight_file.size(self.graph.store[name] for name in self.graph.params)

    @property
    def notes(self) -> tuple[str, ...]:
        tuned = tuning.shared(self._about).notes if self.device.type == "cuda" else []
        where = (
            "kernels are interpreted by Triton on the CPU"
            if self.simulates
            else f"on {self._about}"
        )
        rest = "put through torch.compile" if self.fused else "run eagerly"
        return (where, *self.division.notes, f"what is no kernel is {rest}", *tuned)


def load(file: Path, graph: Graph) -> KernelRunner:
    """A saved graph on the device that it was compiled for, tuned as it was there."""
    kept = json.loads(file.read_text(encoding="utf-8"))
    runner = KernelRunner(graph, Settings(**kept["settings"]))
    if kept["tuned"] is not None and runner.device.type == "cuda":
        adopt(tuning.shared(tuning.device_of(runner.device)), kept["tuned"], str(file))
    return runner


def adopt(tuner: tuning.Tuner, kept: object, where: str) -> None:
    """Let a tuner take over what was saved, or warn that it was saved for another device."""
    before = len(tuner.notes)
    tuner.adopt(kept, where)
    for note in tuner.notes[before:]:
        warnings.warn(note, RuntimeWarning, stacklevel=2)


def device_named(name: str) -> torch.device:
    """The device, once it is known to be there."""
    if importlib.util.find_spec("triton") is None:
        raise TargetError(
            "kernels are compiled by triton, which is not installed",
            do="pip install 'regauge[triton]'",
        )
    try:
        device = torch.device(name)
    except RuntimeError:
        raise TargetError(f"there is no device {name!r}", do="give 'cuda', 'cuda:1', ..") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise TargetError(
                f"kernels are to run on {name}, and PyTorch finds {count or 'no'} such device"
                f"{'s' * (count > 1)}",
                do="install a build of PyTorch for the GPU of this machine, or leave the option "
                "'device' out, which simulates",
            )
        return torch.device("cuda", device.index or 0)
    if device.type == "cpu":
        return device
    raise TargetError(f"kernels run on cuda, not on {device.type}", do="give 'cuda'")


def check_compilers(device: torch.device) -> None:
    """Raise ``TargetError`` that names what is missing."""
    knobs: Any = import_module("triton.knobs")
    if device.type == "cpu":
        if not knobs.runtime.interpret:
            raise TargetError(
                "on the CPU kernels run in Triton's interpreter alone, which is off",
                do="set TRITON_INTERPRET=1 before Python starts, or give a GPU as 'device'",
            )
        return
    if knobs.runtime.interpret:
        raise TargetError(
            "TRITON_INTERPRET is set: kernels would be interpreted, not run on the GPU",
            do="unset it before Python starts, or give 'cpu' as 'device'",
        )
    capability = tuning.device_of(device).capability
    if capability < OLDEST:
        raise TargetError(
            f"kernels need a GPU of capability {OLDEST} or more, and this has {capability}",
            do="leave the option 'device' out, which simulates",
        )
    if not (os.environ.get("CC") or any(map(shutil.which, ("cc", "gcc", "clang")))):
        raise TargetError(
            "triton builds what launches its kernels with a C compiler, and finds none",
            do="apt-get install gcc libc6-dev, or name one in CC",
        )
    try:
        knobs.nvidia.ptxas.path  # noqa: B018 (looks for it)
    except RuntimeError as error:
        raise TargetError(
            f"triton's assembler of GPU code, ptxas, is missing: {error}",
            do="pip install --force-reinstall triton, or name one in TRITON_PTXAS_PATH",
        ) from None


def _place(graph: Graph, device: torch.device) -> None:
    """Let what makes constants make them on the device."""
    for node in graph.nodes:
        schema = getattr(ops.get(node.op).target, "_schema", None)
        packet = ops.get(node.op).target
        overloads = (
            [schema]
            if schema
            else [getattr(packet, name)._schema for name in getattr(packet, "overloads", list)()]
        )
        if not any(arg.op != "param" for arg in node.inputs) and any(
            argument.name == "device" for found in overloads for argument in found.arguments
        ):
            node.set(attrs={**node.attrs, "device": device})
