"""What tests of all parts share: small models, and what they compute in float64."""

from __future__ import annotations

import copy
import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from regauge.frontend import trace
from regauge.ir import Graph

_HALVES = {torch.float32, torch.float16, torch.bfloat16}


def _load(name: str) -> ModuleType:
    """A module beside this file; tests do not import each other."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


class _InDouble(TorchDispatchMode):
    """Casts to a floating-point dtype, and whatever else names one, mean float64."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        def double(value: Any) -> Any:
            return torch.float64 if isinstance(value, torch.dtype) and value in _HALVES else value

        return func(*map(double, args), **{k: double(v) for k, v in (kwargs or {}).items()})


def _doubled(value: Any) -> Any:
    return tree_map_only(torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, value)


@pytest.fixture(scope="session")
def exact_outputs() -> Callable[..., list[torch.Tensor]]:
    """``exact_outputs(model, args, kwargs)``: the tensors that the eager model gives in float64."""

    def run(
        model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
    ) -> list[torch.Tensor]:
        model = copy.deepcopy(model).double()
        choose: Any = getattr(model, "set_experts_implementation", None)
        if choose is not None:
            choose("eager")  # the grouped product knows no float64
        torch.set_default_dtype(torch.float64)
        try:
            with torch.no_grad(), _InDouble():
                found = model(*_doubled(args), **_doubled(dict(kwargs or {})))
        finally:
            torch.set_default_dtype(torch.float32)
        return [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]

    return run


@pytest.fixture(scope="session")
def graph_outputs() -> Callable[..., list[torch.Tensor]]:
    """``graph_outputs(graph, args, kwargs)``: the tensors that a graph in float64 gives."""

    def run(
        graph: Graph, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
    ) -> list[torch.Tensor]:
        found = graph.run(*_doubled(args), **_doubled(dict(kwargs or {})))
        return [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]

    return run


@pytest.fixture(scope="session")
def zoo_names() -> tuple[str, ...]:
    return _load("models").NAMES


@pytest.fixture(scope="session")
def zoo_model() -> Callable[..., Any]:
    """``zoo_model("bert", attention="eager")``: a small random model, as ``models.py`` has them."""
    return functools.cache(_load("models").zoo_model)


@pytest.fixture(scope="session")
def traced(zoo_model: Callable[..., Any]) -> Callable[..., Graph]:
    """``traced("bert", attention=None, dynamic=())``: the canonical graph; nobody may change it.

    ``dynamic`` names the first axes of the main input that may vary.
    """

    @functools.cache
    def make(name: str, *, attention: str | None = None, dynamic: tuple[str, ...] = ()) -> Graph:
        zoo = zoo_model(name, attention=attention)
        shapes: dict[str, Any] | None = None
        if dynamic:
            main = next(iter(inspect.signature(zoo.model.forward).parameters))
            dims = {i: torch.export.Dim(name, min=2, max=32) for i, name in enumerate(dynamic)}
            shapes = {main: dims, **dict.fromkeys(zoo.kwargs)}
        return trace(zoo.model, zoo.args, zoo.kwargs, dynamic_shapes=shapes)

    return make
