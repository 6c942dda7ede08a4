"""What tests of all parts share: small models, and what they compute in float64."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

import graphs
import pytest
import small_models
import torch
from oracle import doubled, eager_in_double
from torch.utils._pytree import tree_leaves

from regauge.frontend import trace
from regauge.ir import Graph

# Kernels run in Triton's interpreter. It is asked for when triton is imported, which packages that
# others import do.
os.environ["TRITON_INTERPRET"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files anew")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """``golden("name.c", text)``: the text is that of a file in ``golden`` beside the test."""

    def check(name: str, text: str) -> None:
        path = request.path.parent / "golden" / name
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture(scope="session")
def exact_outputs() -> Callable[..., list[torch.Tensor]]:
    """``exact_outputs(model, args, kwargs)``: the tensors that the eager model gives in float64."""

    return eager_in_double


@pytest.fixture(scope="session")
def graph_outputs() -> Callable[..., list[torch.Tensor]]:
    """``graph_outputs(graph, args, kwargs)``: the tensors that a graph in float64 gives."""

    def run(
        graph: Graph, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
    ) -> list[torch.Tensor]:
        found = graph.run(*doubled(args), **doubled(dict(kwargs or {})))
        return [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]

    return run


@pytest.fixture(scope="session")
def zoo_names() -> tuple[str, ...]:
    return small_models.NAMES


@pytest.fixture(scope="session")
def zoo_model() -> Callable[..., Any]:
    """``zoo_model("bert", attention="eager")``: one of ``small_models``, made once."""
    return functools.cache(small_models.zoo_model)


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


@pytest.fixture
def graph_of() -> Callable[..., Graph]:
    return graphs.make


@pytest.fixture
def inputs_of() -> Callable[..., list[torch.Tensor]]:
    return graphs.feed
