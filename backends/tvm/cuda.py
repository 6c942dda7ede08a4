"""NVIDIA's GPUs: kernels as CUDA's source and as a cubin, made without a GPU.

TVM writes the source, and compiles it where it first runs. What it gets there is the cubin that
nvcc made here, unless the GPU is one of another architecture, for which the source is compiled
anew.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...ir import NoDevice, TargetError

ARCH = "sm_90"
SOURCE, BINARY = "kernels.cu", "kernels.{}.cubin"
_HEAD = "// compiled for "


def gpu(arch: str) -> Any:
    """A GPU as TVM's target, with a host of any x86 processor.

    Raises:
        TargetError: It is no name of an architecture.
    """
    if re.fullmatch(r"sm_\d{2,3}a?", arch) is None:
        raise TargetError(
            f"target 'tvm' knows no architecture {arch!r}",
            do="name one as nvcc does, such as sm_80 (A100) or sm_90 (H100)",
        )
    tvm: Any = import_module("tvm")
    limits = {
        "max_num_threads": 1024,
        "max_threads_per_block": 1024,
        "max_shared_memory_per_block": 49152,
        "thread_warp_size": 32,
    }
    return tvm.target.Target({"kind": "cuda", "arch": arch, **limits}, host={"kind": "llvm"})


@dataclass(frozen=True)
class Kernels:
    """All kernels of a model.

    Attributes:
        cubin: What runs on a GPU of the architecture; without nvcc there is none.
    """

    source: str
    arch: str
    cubin: bytes | None

    @classmethod
    def of(cls, compiled: Any, arch: str) -> Kernels:
        """Those of what TVM compiled."""
        parts = [part.inspect_source() for part in _modules(compiled.mod) if part.kind == "cuda"]
        assert len(parts) == 1, "TVM puts all kernels of a target into one module"
        return cls(parts[0], arch, assembled(parts[0], arch) if nvcc() else None)

    @classmethod
    def within(cls, folder: Path) -> Kernels | None:
        """Those that ``save`` wrote, if it did."""
        path = folder / SOURCE
        if not path.is_file():
            return None
        first, _, source = path.read_text(encoding="utf-8").partition("\n")
        arch = first.removeprefix(_HEAD)
        binary = folder / BINARY.format(arch)
        return cls(source, arch, binary.read_bytes() if binary.is_file() else None)

    def save(self, folder: Path) -> None:
        (folder / SOURCE).write_text(f"{_HEAD}{self.arch}\n{self.source}", encoding="utf-8")
        if self.cubin is not None:
            (folder / BINARY.format(self.arch)).write_bytes(self.cubin)

    @property
    def note(self) -> str:
        if self.cubin is None:
            return (
                f"CUDA's source for {self.arch} alone: there is no nvcc to make a cubin with, and "
                "a machine that runs it needs one (pip install nvidia-cuda-nvcc)"
            )
        return f"CUDA's source, and a cubin for {self.arch}"

    def give(self) -> None:
        """Let TVM take the cubin where it would compile the source."""
        if self.cubin is not None:
            _known[_digest(self.source), self.arch] = self.cubin
        _register()


_known: dict[tuple[str, str], bytes] = {}


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()


@functools.cache
def _register() -> None:
    def compile(source: str, *_: Any) -> bytes:
        arch = present()
        found = _known.get((_digest(source), arch))
        return assembled(source, arch) if found is None else found

    ffi: Any = import_module("tvm_ffi")
    ffi.register_global_func("tvm_callback_cuda_compile", compile, override=True)


def present() -> str:
    """The architecture of the first GPU of this machine.

    Raises:
        NoDevice: There is none, or TVM finds no driver of it.
    """
    tvm: Any = import_module("tvm")
    device = tvm.cuda(0)
    if not device.exist:
        raise NoDevice(
            "target 'tvm' finds no GPU of NVIDIA's on this machine, for which the model is "
            "compiled",
            do="run it on a machine that has one; to compile it here, set measure=False",
        )
    return arch_of(device)


def arch_of(device: Any) -> str:
    """The architecture of a GPU that exists, of this machine or of another."""
    return "sm_" + str(device.compute_version).replace(".", "")


def nvcc() -> str | None:
    """The path of CUDA's compiler: one on the path, in CUDA_HOME, or of a Python package."""
    folders = [os.environ.get("PATH", "")]
    if home := os.environ.get("CUDA_HOME"):
        folders.append(str(Path(home) / "bin"))
    if (spec := find_spec("nvidia")) is not None:
        places = spec.submodule_search_locations or ()
        folders += [str(path) for place in places for path in Path(place).glob("*/bin")]
    return shutil.which("nvcc", path=os.pathsep.join(folders))


def assembled(source: str, arch: str) -> bytes:
    """A cubin of CUDA's source.

    Raises:
        TargetError: nvcc is missing, or does not take the source or the architecture.
    """
    compiler = nvcc()
    if compiler is None:
        raise TargetError(
            f"target 'tvm' compiles kernels for {arch} with nvcc, and finds none",
            do="pip install nvidia-cuda-nvcc, or install CUDA and set CUDA_HOME",
        )
    with tempfile.TemporaryDirectory(prefix="regauge-") as name:
        path, made = Path(name) / SOURCE, Path(name) / "kernels.cubin"
        path.write_text(source, encoding="utf-8")
        command = [compiler, "-cubin", f"-arch={arch}", "-O3", "-o", str(made), str(path)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise TargetError(
                f"nvcc makes no kernels for {arch}: {run.stderr.strip().splitlines()[-1]}",
                do="choose an architecture that it lists by --list-gpu-arch",
            )
        return made.read_bytes()


def _modules(module: Any) -> Iterator[Any]:
    yield module
    for part in module.imports:
        yield from _modules(part)


def apply_default(module: Any) -> Any:
    """The module with each of its functions that has no schedule given one of dlight's."""
    light: Any = import_module("tvm.s_tir.dlight")
    rules = light.gpu
    return light.ApplyDefaultSchedule(
        rules.Matmul(),
        rules.GEMV(),
        rules.Reduction(),
        rules.GeneralReduction(),
        rules.Fallback(),
    )(module)
