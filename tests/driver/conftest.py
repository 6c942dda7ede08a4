"""Small models to compile, and passes that keep or break their promise."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import regauge as rg
from regauge.ir import Graph
from regauge.passes import Context, Pass, Promise, Remark, Stage


class Pair(NamedTuple):
    """What a model may return."""

    low: Tensor
    high: Tensor


class Net(nn.Module):
    """Two layers; options and several kinds of result."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, *, double: bool = False, bias: Tensor | None = None) -> Any:
        y = self.second(torch.relu(self.first(x)))
        y = y if bias is None else y + bias
        return {"y": y * 2 if double else y, "both": [Pair(x + 1, x - 1), y]}


class Scale(Pass):
    """Multiplies a weight: a lie, for it says that it is exact."""

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        name = next(name for name in graph.params if name.endswith("weight"))
        graph.store[name] = graph.store[name] * 1.001
        return [Remark(True, name, "multiplied by 1.001")]


class Honest(Scale):
    """Multiplies a weight, and says so."""

    promise = Promise.APPROXIMATE
    stage = Stage.QUANTIZE


class Nothing(Pass):
    """Does nothing, and says why."""

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        return [Remark(False, node.name, f"{node.op} has no rule") for node in graph.nodes[:2]]


@pytest.fixture
def net() -> Net:
    return Net().eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def art(net: Net, x: Tensor) -> rg.Artifact:
    return rg.compile(net, (x,), passes=[], target="torch", measure=False)


@pytest.fixture
def passes() -> dict[str, Callable[[], Pass]]:
    return {"Scale": Scale, "Honest": Honest, "Nothing": Nothing}


@pytest.fixture
def equal() -> Callable[[Any, Any], None]:
    """Assert that two results are of the same types and hold the same numbers."""

    def check(found: Any, wanted: Any) -> None:
        assert type(found) is type(wanted)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)

    return check
