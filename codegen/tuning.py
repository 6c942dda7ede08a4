"""Which options of a kernel are fastest, measured once on a device and kept in a file.

A file holds what was measured on one device with one release of the compiler. What another one has
written is not used: it is measured anew, and ``Tuner.notes`` says so.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..ir.errors import InputError
from .description import Region, Tensors
from .kernels import prepare, space

if TYPE_CHECKING:
    from .launch import Options

Clock = Callable[[Callable[[], None]], float]


@dataclass(frozen=True)
class Device:
    """What the best options depend on besides the region.

    Args:
        name: As its maker calls it; ``cpu`` is Triton's interpreter.
        capability: 80, 90.
        processors: How many it has.
        triton: The release of the compiler.
    """

    name: str
    capability: int = 90
    processors: int = 132
    triton: str = ""

    @classmethod
    def of(cls, device: torch.device) -> Device:
        """A device at hand."""
        if device.type != "cuda":
            return cls(str(device), triton=version("triton"))
        found: Any = torch.cuda.get_device_properties(device)
        return cls(
            found.name,
            10 * found.major + found.minor,
            found.multi_processor_count,
            version("triton"),
        )

    @property
    def stem(self) -> str:
        """Of the names of files."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    def __str__(self) -> str:
        return f"{self.name} with triton {self.triton}"


def key(region: Region, rows: int) -> str:
    """A region, and the magnitude of the number of rows."""
    return f"{region} | {1 << max(rows - 1, 0).bit_length()} rows"


def milliseconds(run: Callable[[], None]) -> float:
    """The median time of a run on the device, with nothing in its caches."""
    testing: Any = import_module("triton.testing")
    return float(testing.do_bench(run, warmup=10, rep=60, return_mode="median"))


def cache_folder() -> Path:
    """Where what was measured is kept for all programs of a user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regauge"


class Tuner:
    """Best options on a device, from a file and into it.

    Args:
        path: Of the file, in JSON; made where there is none.
        device: Which.
        clock: What measures a run.

    Attributes:
        notes: What was known of another device or compiler, and is measured anew.
    """

    def __init__(self, path: Path, device: Device, clock: Clock = milliseconds) -> None:
        self.path, self.device, self.clock = path, device, clock
        self.found: dict[str, Options] = {}
        self.notes: list[str] = []
        if path.exists():
            try:
                self.adopt(json.loads(path.read_text(encoding="utf-8")), str(path))
            except ValueError:
                self.notes.append(f"{path} is no file of tuned kernels: they are measured anew")

    def adopt(self, kept: Any, where: str) -> None:
        """Take over what ``kept`` made.

        Args:
            where: It comes from, for a note.
        """
        match kept:
            case {"device": dict(about), "options": dict(options)}:
                pass
            case _:
                self.notes.append(f"{where} is no file of tuned kernels: they are measured anew")
                return
        if about != asdict(self.device):
            before = f"{about.get('name')} with triton {about.get('triton')}"
            self.notes.append(
                f"{where}: kernels were tuned on {before}, and this is {self.device}: "
                "they are measured anew"
            )
            return
        self.found = {**options, **self.found}

    def kept(self, regions: Mapping[str, Region] | None = None) -> dict[str, Any]:
        """What is known, of some regions alone where they are given by their text."""
        options = {
            name: given
            for name, given in sorted(self.found.items())
            if regions is None or name.rpartition(" | ")[0] in regions
        }
        return {"device": asdict(self.device), "options": options}

    def options(self, region: Region, operands: Tensors, *, limit: int | None = None) -> Options:
        """The fastest for a region on these operands; measured where it is not known.

        Args:
            region: What is computed.
            operands: Of what, on the device in question.
            limit: Of candidates that are tried.
        """
        x = operands["input"]
        rows, device = x.shape[0], self.device
        name = key(region, rows)
        if (known := self.found.get(name)) is not None:
            if known in space(region, rows, device.processors, device.capability):
                return known
            self.notes.append(f"{region} has other options now than were tuned: measured anew")
        candidates = space(region, rows, device.processors, device.capability)[:limit]
        if x.is_cuda:
            _compile(region, operands, candidates)
        times = [self._time(region, operands, options) for options in candidates]
        if not math.isfinite(least := min(times)):
            raise InputError(f"no options of {region} fit on {device.name}")
        self.found[name] = candidates[times.index(least)]
        self._write()
        return self.found[name]

    def _write(self) -> None:
        """Whole or not at all: others may read the file."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(json.dumps(self.kept(), indent=1) + "\n")
            os.replace(name, self.path)
        except OSError as error:
            warnings.warn(f"tuned kernels are not kept: {error}", RuntimeWarning, stacklevel=3)

    def _time(self, region: Region, operands: Tensors, options: Options) -> float:
        """Infinite where the device has not enough registers or shared memory for it."""
        errors: Any = import_module("triton.runtime.errors")
        try:
            return self.clock(prepare(region, operands, options)[0].run)
        except (errors.OutOfResources, errors.PTXASError):
            return math.inf


@functools.cache
def shared(device: Device) -> Tuner:
    """The tuner of this process for a device, in the user's cache folder."""
    return Tuner(cache_folder() / f"tuned-{device.stem}.json", device)


@functools.cache
def device_of(device: torch.device) -> Device:
    """``Device.of``, asked once."""
    return Device.of(device)


def chosen(region: Region, operands: Tensors, tries: int) -> Options:
    """The options to run with: tuned on a GPU, where ``tries`` says so, else the safest."""
    x = operands["input"]
    device = device_of(x.device)
    if x.is_cuda and tries:
        return shared(device).options(region, operands, limit=tries)
    return space(region, x.shape[0], device.processors, device.capability)[0]


def _compile(region: Region, operands: Tensors, candidates: list[Options]) -> None:
    """Compile candidates side by side; what cannot be compiled is found out when it is run."""
    triton: Any = import_module("triton")
    with ThreadPoolExecutor() as pool, triton.AsyncCompileMode(pool, ignore_errors=True):
        for options in candidates:
            prepare(region, operands, options)[0].warm()
