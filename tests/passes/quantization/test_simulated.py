"""What is simulated is what quantization does, and can be differentiated."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from regauge.ir import Graph, Node, parse
from regauge.ir.gauge import Region, folded, random_element, separate, transport
from regauge.ir.interpret import execute
from regauge.ir.laws import Kind
from regauge.passes import Context, Quantize
from regauge.passes.quantization.simulated import Simulation, fake_quantize, fake_quantize_weights

TEXT = """
def graph(x: f32[64, 32], *, g: f32[32], b: f32[32], w: f32[32, 32], c: f32[32], v: f32[48, 32]):
    n: f32[64, 32] = layer_norm(x, g, b, normalized_shape=(32,))
    a: f32[64, 32] = linear(n, w, c)
    d: f32[64, 48] = linear(n, v)
    return a, d, n
"""


def filled() -> tuple[Graph, Context]:
    graph = parse(TEXT)
    generator = torch.Generator().manual_seed(0)
    for name, node in graph.params.items():
        graph.store[name] = torch.randn([int(s) for s in node.shape], generator=generator)
    data = [[torch.randn(64, 32, generator=generator)] for _ in range(3)]
    return graph, Context(inputs=data[0], calibration=data)


@pytest.mark.parametrize("activations", ["static", "dynamic", "dynamic-tensor", None])
def test_readers_see_what_they_will_read(activations: Any) -> None:
    graph, context = filled()
    quantized, _ = Quantize(activations, rounding="nearest", correct_bias=False)(graph, context)
    simulation = Simulation.of(graph, context, "test", activations=activations)
    found = execute(graph, context.inputs, read=simulation.reading())
    exact = execute(graph, context.inputs)
    for mine, wanted in zip(found, execute(quantized, context.inputs), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[0], exact[0], atol=1e-3)
    assert torch.equal(found[2], exact[2])  # who does not contract it reads it as it is


@pytest.mark.parametrize("kind", [Kind.SCALE, Kind.SHIFT])
def test_ranges_follow_what_is_folded(kind: Kind) -> None:
    graph, context = filled()
    graph.output.set(graph.outputs[:2])  # nobody else reads the norm
    region = transport(graph, graph["n"], kind)
    assert isinstance(region, Region)
    separate(graph, region)
    element = random_element(region, torch.Generator().manual_seed(0)).float()
    simulation = Simulation.of(graph, context, "test")
    values = {node: graph.value(node) for node in graph.params.values()}
    values |= folded(region, element, values.__getitem__)
    read = simulation.reading([(region, element)])
    params = {node.name: value for node, value in values.items()}
    found = execute(graph, context.inputs, params=params, read=read)
    for name, value in params.items():
        graph.store[name] = value
    again = Simulation.of(graph, context, "test").reading()
    wanted = execute(graph, context.inputs, read=again)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


def test_biases_take_up_the_mean_error() -> None:
    graph, context = filled()
    simulation = Simulation.of(graph, context, "test", bits=4)
    means: dict[Node, torch.Tensor] = {}
    exact = execute(graph, context.inputs, tap=simulation.watch(means, None))
    assert [node.name for node in means] == ["a"]
    taps = (None, simulation.correct(means, (), None))
    plain, corrected = (
        execute(graph, context.inputs, read=simulation.reading(), tap=tap) for tap in taps
    )
    assert float((plain[0] - exact[0]).mean(0).abs().max()) > 1e-2
    assert float((corrected[0] - exact[0]).mean(0).abs().max()) < 1e-5
    assert torch.equal(plain[1], corrected[1])  # there is no bias to take it up


def test_rounding_is_passed_straight_through() -> None:
    values = torch.tensor([[0.31, -2.0, 1.27, 0.0]], requires_grad=True)
    limits = torch.tensor(-1.0), torch.tensor(1.5)
    found = fake_quantize(values, limits, "static")
    found.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[1.0, 0.0, 1.0, 1.0]]  # and what is clipped takes none
    weight = torch.tensor([[0.3, -1.0], [0.2, 0.7]], requires_grad=True)
    fake_quantize_weights(weight, 8, None).square().sum().backward()
    assert weight.grad is not None and bool((weight.grad * weight > 0).all())


@pytest.mark.parametrize("activations", ["static", None])
def test_what_readers_see_is_of_their_own_run(activations: Any) -> None:
    text = """
    def graph(x: f32[64, 32], *, w: f32[32, 32]):
        y: f32[64, 32] = linear(x, w)
        return y
    """
    graph, generator = parse(text), torch.Generator().manual_seed(0)
    graph.store["w"] = torch.randn(32, 32, generator=generator)
    data = [[torch.randn(64, 32, generator=generator)] for _ in range(2)]
    simulation = Simulation.of(graph, Context(data[0], data), "test", activations=activations)
    read = simulation.reading()
    for batch in data:
        (found,) = execute(graph, batch, read=read)
        (alone,) = execute(graph, batch, read=simulation.reading())
        assert torch.equal(found, alone)
