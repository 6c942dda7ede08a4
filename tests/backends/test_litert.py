"""LiteRT, where it is installed: flat buffers compute what the interpreter computes."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
import small_models
import torch

import regauge as rg
from regauge.backends.litert import LiteRtRunner
from regauge.backends.profiles import target
from regauge.frontend import trace
from regauge.ir import Graph, TargetError
from regauge.ir.interpret import execute, flatten
from regauge.passes import Context, Quantize, QuantizeResults
from regauge.passes.manager import difference

pytest.importorskip("litert_torch")
pytest.importorskip("ai_edge_litert")

Make: TypeAlias = Callable[..., Graph]
# Of LiteRT's own use of PyTorch and of Python.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", ["resnet", "vit", "bert"])
def test_families_run_in_float32(name: str, tmp_path: Path) -> None:
    made = small_models.zoo_model(name)
    graph = trace(made.model, made.args, made.kwargs)
    inputs = flatten(graph, made.args, made.kwargs)
    runner = target("litert").lower(graph)
    assert difference(runner(inputs), execute(graph, inputs)) < 2e-6
    runner.save(tmp_path)
    loaded = target("litert").load(tmp_path, graph, threads=1)
    assert difference(loaded(inputs), runner(inputs)) < 2e-6


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_codes_are_computed_on_as_codes(name: str) -> None:
    made = small_models.zoo_model(name)
    graph = trace(made.model, made.args, made.kwargs)
    inputs = flatten(graph, made.args, made.kwargs)
    context = Context(inputs=inputs, calibration=[inputs], unsigned_activations=False)
    new, _ = Quantize("static", least=0).attempt(graph, context)
    new, _ = QuantizeResults().attempt(new, context)
    full, runner = target("litert").lower(graph), target("litert").lower(new)
    assert isinstance(runner, LiteRtRunner)
    assert runner.bytes < 0.6 * full.bytes
    assert difference(runner(inputs), execute(new, inputs)) < 0.01  # its requantization rounds
    assert runner.operators["QUANTIZE"] < 15  # of some seventy before they are fused


def test_symbolic_sizes_are_refused(graph_of: Make) -> None:
    with pytest.raises(TargetError, match="needs every size as a number"):
        target("litert").check_graph(graph_of("x: f32[n, 8]", "y = relu(x)"))


def test_an_integer_of_64_bits_stays_one(graph_of: Make) -> None:
    graph = graph_of("x: i64[4]", "y = add(x, x)")
    large = torch.tensor([1, -2, 1 << 40, 3])
    torch.testing.assert_close(target("litert").lower(graph)([large])[0], large + large)


def test_steps_of_a_recurrent_layer_run() -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.GRU(6, 4, batch_first=True).eval(), torch.randn(2, 5, 6)
    art = rg.compile(layer, (x,), target="litert", measure=False)
    with torch.no_grad():
        for found, wanted in zip(art(x), layer(x), strict=True):
            torch.testing.assert_close(found, wanted)


def test_an_op_that_it_does_not_take_is_named(graph_of: Make) -> None:
    graph = graph_of(
        "x: f32[2, 3], m: bool[2, 3], s: f32[6]", "y = aten.masked_scatter.default(x, m, s)"
    )
    with pytest.raises(TargetError, match=r"masked_scatter(.|\n)*at +y: f32\[2, 3\]"):
        target("litert").lower(graph)


def test_what_it_has_no_kernel_for_is_said_before_it_runs(graph_of: Make) -> None:
    graph = graph_of("x: f32[4, 3], i: i64[2], s: f32[2, 3]", "y = index_add(x, i, s, dim=0)")
    with pytest.raises(TargetError, match="LiteRT does not take the model"):
        target("litert").lower(graph)
