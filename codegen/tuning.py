"""Which options of a kernel are fastest, measured once on a device and kept in a file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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


def key(region: Region, rows: int, device: str) -> str:
    """What the best options depend on: the device, the compiler, the region, and the magnitude of
    the number of rows."""
    power = 1 << max(rows - 1, 0).bit_length()
    return f"{device} | triton {version('triton')} | {region} | {power} rows"


def milliseconds(run: Callable[[], None]) -> float:
    """The median time of a run on the device, with nothing in its caches."""
    testing: Any = import_module("triton.testing")
    return float(testing.do_bench(run, warmup=10, rep=60, return_mode="median"))


def _compile(region: Region, operands: Tensors, candidates: list[Options]) -> None:
    """Compile candidates side by side; what cannot be compiled is found out when it is run."""
    triton: Any = import_module("triton")
    with ThreadPoolExecutor() as pool, triton.AsyncCompileMode(pool, ignore_errors=True):
        for options in candidates:
            prepare(region, operands, options)[0].warm()


class Tuner:
    """Best options, from a file and into it.

    Args:
        path: Of the file, in JSON; made where there is none.
        clock: What measures a run.
    """

    def __init__(self, path: Path, clock: Clock = milliseconds) -> None:
        self.path, self.clock = path, clock
        self.found: dict[str, Options] = json.loads(path.read_text()) if path.exists() else {}

    def options(self, region: Region, operands: Tensors, *, limit: int | None = None) -> Options:
        """The fastest for a region on these operands; measured where it is not known.

        Args:
            region: What is computed.
            operands: Of what, on the device in question.
            limit: Of candidates that are tried.
        """
        x = operands["input"]
        rows, device, processors, capability = x.shape[0], str(x.device), 132, 90
        if x.is_cuda:
            found: Any = torch.cuda.get_device_properties(x.device)
            device, processors = found.name, found.multi_processor_count
            capability = 10 * found.major + found.minor
        name = key(region, rows, device)
        if name not in self.found:
            candidates = space(region, rows, processors, capability)[:limit]
            if x.is_cuda:
                _compile(region, operands, candidates)
            times = [self._time(region, operands, options) for options in candidates]
            if not math.isfinite(least := min(times)):
                raise InputError(f"no options of {region} fit on {device}")
            self.found[name] = candidates[times.index(least)]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.found, indent=1, sort_keys=True) + "\n")
        return self.found[name]

    def _time(self, region: Region, operands: Tensors, options: Options) -> float:
        """Infinite where the device has not enough registers or shared memory for it."""
        errors: Any = import_module("triton.runtime.errors")
        try:
            return self.clock(prepare(region, operands, options)[0].run)
        except (errors.OutOfResources, errors.PTXASError):
            return math.inf
