"""Graphs from texts, with random values, and a check of ONNX Runtime against the interpreter."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch

from regauge.backends.onnx import emit
from regauge.backends.onnxruntime import lower
from regauge.ir import Graph, TensorType, parse
from regauge.ir.interpret import execute
from regauge.ir.types import evaluate

SIZES = {"n": 3, "t": 5}


def random(type_: TensorType, sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    """Integers from 0 to 3, int8 codes over their range, the rest from a normal distribution."""
    shape = [evaluate(size, sizes) for size in type_.shape]
    if type_.dtype == torch.bool:
        return torch.rand(shape, generator=generator) > 0.4
    if type_.dtype == torch.int8:
        return torch.randint(-127, 128, shape, generator=generator).to(torch.int8)
    if not type_.dtype.is_floating_point:
        return torch.randint(0, 4, shape, generator=generator).to(type_.dtype)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(type_.dtype)


def make(head: str, *body: str) -> Graph:
    """A graph whose last line is its result; parameters like ``var`` and ``scale`` are positive."""
    result = body[-1].split(":")[0].split(" =")[0]
    ranges = [f"assert 0 <= {name}" for name in SIZES]
    graph = parse("\n    ".join([f"def graph({head}):", *ranges, *body, f"return {result}"]))
    generator = torch.Generator().manual_seed(0)
    for name in graph.params:
        value = random(graph.store.type(name), {}, generator)
        positive = "var" in name or "scale" in name
        graph.store[name] = value.abs() * 0.05 + 0.02 if positive else value
    return graph


def feed(graph: Graph, **sizes: int) -> list[torch.Tensor]:
    """Random inputs; symbols are 3 and 5 where not given."""
    generator = torch.Generator().manual_seed(1)
    return [random(node.tensor, SIZES | sizes, generator) for node in graph.inputs]


def check(graph: Graph, *, rtol: float = 2e-5, atol: float = 2e-6, **sizes: int) -> None:
    """Assert that ONNX Runtime gives what the interpreter gives."""
    inputs = feed(graph, **sizes)
    found = lower(graph, threads=1)(inputs)
    torch.testing.assert_close(found, execute(graph, inputs), rtol=rtol, atol=atol, equal_nan=True)


def kinds(graph: Graph) -> Counter[str]:
    """How often each kind of ONNX node occurs."""
    return Counter(node.op_type for node in emit(graph).graph.node)


@pytest.fixture(name="kinds")
def kinds_fixture() -> Callable[[Graph], Counter[str]]:
    return kinds


@pytest.fixture
def graph_of() -> Callable[..., Graph]:
    return make


@pytest.fixture
def inputs_of() -> Callable[..., list[torch.Tensor]]:
    return feed


@pytest.fixture
def check_runs() -> Callable[..., None]:
    return check
