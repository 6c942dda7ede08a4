"""What SOURCE names: a checkpoint folder, or a factory in a module or a file."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from ..ir import InputError
from .shapes import Size, dynamic

RETURNS = "return a model, (model, args), (model, args, kwargs), or a dict with the key 'model'"
KEYS = ("model", "args", "kwargs", "calibration", "dynamic_shapes")


@dataclass
class Source:
    """A model and what ``compile`` needs with it."""

    model: torch.nn.Module | ExportedProgram
    args: Any = ()
    kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    calibration: Iterable[Any] | None = None
    dynamic_shapes: Any = None
    folder: Path | None = None  # the checkpoint

    @property
    def example(self) -> dict[str, Any]:
        """The example inputs by the names of the model's arguments."""
        args = (self.args,) if isinstance(self.args, torch.Tensor) else tuple(self.args)
        if not isinstance(self.model, torch.nn.Module):
            return dict(self.kwargs)
        bound = inspect.signature(self.model.forward).bind(*args, **self.kwargs).arguments
        return {k: v for k, v in bound.items() if v is not None}


def load(source: str, shapes: Mapping[str, list[Size]]) -> Source:
    """Load what SOURCE names; ``shapes`` are the sizes of its inputs."""
    path = Path(source)
    if path.is_dir():
        from .checkpoint import open_checkpoint

        return open_checkpoint(path, shapes)
    if ":" not in source:
        raise InputError(
            f"{source!r} is neither a folder nor module:factory",
            do="give a checkpoint folder, package.module:function, or path/to/file.py:function",
        )
    found = _as_source(resolve(source)(), source)
    if shapes:
        found.dynamic_shapes = dynamic(shapes, found.example)
    return found


def resolve(name: str) -> Callable[[], Any]:
    """The function that ``module:function`` or ``file.py:function`` names, from this folder."""
    module_name, _, attribute = name.rpartition(":")
    module = _from_file(Path(module_name)) if module_name.endswith(".py") else _import(module_name)
    found = getattr(module, attribute, None)
    if not callable(found):
        wrong = "is not a function" if hasattr(module, attribute) else "does not exist"
        raise InputError(f"{name}: {attribute} {wrong}", where=str(getattr(module, "__file__", "")))
    return found


def _import(name: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        top = error.name or ""
        if name != top and not name.startswith(f"{top}."):
            raise  # the user's module is there, and imports one that is not
        raise InputError(
            f"there is no module {name!r}",
            do="run this where the module lies, or give path/to/file.py:function",
        ) from None


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"there is no file {path}", do="give path/to/file.py:function")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # pickle and inspect look there
    spec.loader.exec_module(module)
    return module


def _as_source(found: Any, name: str) -> Source:
    if isinstance(found, (torch.nn.Module, ExportedProgram)):
        return Source(found)
    if isinstance(found, Mapping) and "model" in found:
        if unknown := [key for key in found if key not in KEYS]:
            raise InputError(f"{name} returned the key {unknown[0]!r}", do=f"use {', '.join(KEYS)}")
        return Source(
            found["model"],
            found.get("args") or (),
            dict(found.get("kwargs") or {}),
            found.get("calibration"),
            found.get("dynamic_shapes"),
        )
    if isinstance(found, tuple) and 2 <= len(found) <= 3 and isinstance(found[0], torch.nn.Module):
        model, args, *kwargs = found
        return Source(model, args, dict(kwargs[0] if kwargs else {}))
    raise InputError(f"{name} returned a {type(found).__name__}", do=RETURNS)
