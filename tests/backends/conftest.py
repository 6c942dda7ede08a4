"""A check of ONNX Runtime against the interpreter."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from graphs import feed

from regauge.backends.onnx import emit
from regauge.backends.onnxruntime import lower
from regauge.ir import Graph
from regauge.ir.interpret import execute


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
def check_runs() -> Callable[..., None]:
    return check
