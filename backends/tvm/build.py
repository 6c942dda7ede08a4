"""A Relax module as code: made ready for schedules, and compiled."""

from __future__ import annotations

import functools
import json
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ...ir import TargetError
from . import cuda, schedule
from .device import Device

LIBRARY, SOURCE = "model.so", "module.json"
LINKERS = ("c++", "g++", "clang++")  # a library is linked by one of them; nothing is compiled


def prepared(module: Any, target: Any) -> Any:
    """The module as functions on buffers, which schedules are for."""
    steps, relax = _steps(target), import_module("tvm.relax")
    with target:
        module = relax.transform.DeadCodeElimination()(module)
        for step in (*steps.library_dispatch_passes(target), *_legalized()):
            module = step(module)
    return module


def _legalized() -> list[Any]:
    """The same for all targets; those of TVM's for GPUs give schedules as well."""
    steps: Any = import_module("tvm.relax.backend.cpu_generic.pipeline")
    return steps.legalize_passes(None)


def built(module: Any, target: Any) -> Any:
    """The module as code, with a schedule for each function that has none."""
    tvm: Any = import_module("tvm")
    steps, rules = _steps(target), cuda if target.kind.name == "cuda" else schedule
    with target:
        module = rules.apply_default(module)
        for step in (*steps.dataflow_lower_passes(target), *steps.finalize_passes(target)):
            module = step(module)
    return tvm.relax.build(module, target=target, relax_pipeline=None)


def linker() -> str:
    """What links a library; raises ``TargetError`` where there is nothing."""
    found = next(filter(None, map(shutil.which, LINKERS)), None)
    if found is None:
        raise TargetError(
            f"target 'tvm' links a library with one of {', '.join(LINKERS)}, and finds none",
            do="apt-get install g++",
        )
    return found


def _steps(target: Any) -> Any:
    kind = "cuda" if target.kind.name == "cuda" else "cpu_generic"
    return import_module(f"tvm.relax.backend.{kind}.pipeline")


@dataclass(frozen=True)
class Source:
    """What a library is compiled of, and for.

    Args:
        module: TVM's text of a module before its functions have schedules.
    """

    module: str
    device: Device

    @classmethod
    def of(cls, module: Any, target: Any) -> Source:
        ir: Any = import_module("tvm.ir")
        return cls(str(ir.save_json(module)), Device.of(target))

    @classmethod
    def within(cls, folder: Path) -> Source | None:
        """The one that ``save`` wrote, if it did."""
        path = folder / SOURCE
        if not path.is_file():
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
        return cls(json.dumps(found["module"]), Device(**found["device"]))

    def save(self, folder: Path) -> None:
        found = {"device": self.device.to_json(), "module": json.loads(self.module)}
        (folder / SOURCE).write_text(json.dumps(found) + "\n", encoding="utf-8")

    def compiled(self, target: Any) -> Library:
        """A library of it for another target."""
        ir: Any = import_module("tvm.ir")
        module = ir.load_json(self.module)
        return Library(built(module, target), source=Source(self.module, Device.of(target)))


@dataclass(frozen=True)
class Library:
    """Code that was compiled, or that lies in a file and is read where it runs.

    Args:
        source: Of code of one processor.
    """

    code: Any = None
    path: Path | None = None
    source: Source | None = None

    @classmethod
    def within(cls, folder: Path) -> Library:
        """The one that ``save`` wrote."""
        return cls(path=folder / LIBRARY, source=Source.within(folder))

    def open(self) -> Any:
        """What TVM's virtual machine runs."""
        tvm: Any = import_module("tvm")
        return self.code if self.path is None else tvm.runtime.load_module(str(self.path))

    def save(self, folder: Path) -> None:
        """Write ``model.so``, and what it is compiled of.

        Raises:
            TargetError: There is nothing that links a library.
        """
        if self.source is not None:
            self.source.save(folder)
        if self.path is not None:
            shutil.copy(self.path, folder / LIBRARY)
            return
        cc: Any = import_module("tvm.support.cc")
        link = functools.partial(cc.create_shared, cc=linker())
        self.code.export_library(str(folder / LIBRARY), fcompile=link)
