"""What is fitted to a section's outputs is found again, and never worse than the start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graphs import fill

from regauge.ir import Graph, InputError, Node, parse
from regauge.ir.interpret import execute
from regauge.ir.sections import Section, sections
from regauge.passes import Context
from regauge.passes.fitting import Computed, Fitter, Given, Learnable, Samples, damage

TEXT = """
def graph(x: f32[32, 8], *, w: f32[16, 8], c: f32[16], u: f32[8, 16]):
    a: f32[32, 16] = linear(x, w, c)
    h: f32[32, 16] = relu(a)
    y: f32[32, 8] = linear(h, u)
    return y
"""


def problem(batches: int = 8) -> tuple[Graph, Section, Samples]:
    graph = parse(TEXT)
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator)
    (section,) = sections(graph, "graph")
    params = {node: graph.value(node) for node in graph.params.values()}
    flows: list[dict[Node, Any]] = []
    for _ in range(batches):
        flows.append({graph["x"]: torch.randn(32, 8, generator=generator), **params})
    return graph, section, Samples(flows, flows, [None] * batches)


def spoiled(graph: Graph, rate: float) -> Given:
    """The second weight, off what it was."""
    noise = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    return Given([(graph["y"], graph["u"])], graph.store["u"] + 0.1 * noise, rate)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("loss", ["relative", "squared"])
def test_what_was_spoiled_is_learned_again(optimizer: Any, loss: Any) -> None:
    graph, section, samples = problem()
    part = spoiled(graph, 3e-2)
    fitter = Fitter(steps=150, optimizer=optimizer, loss=loss)
    fit = fitter.fit(section, samples, [part], Context(inputs=()), "test")
    assert fit.after < 1e-4 * fit.before
    assert 0 < fit.step <= 150


def test_learning_that_does_harm_leaves_the_start() -> None:
    graph, section, samples = problem()
    part = Given([(graph["y"], graph["u"])], graph.store["u"] * 1.01, rate=100.0)
    before = part.tensor.detach().clone()
    fit = Fitter(steps=5).fit(section, samples, [part], Context(inputs=()), "test")
    assert fit.step == 0 and fit.after == fit.before > 0
    assert torch.equal(part.tensor, before)


def test_the_same_seed_learns_the_same() -> None:
    graph, section, samples = problem()
    found: list[torch.Tensor] = []
    for seed in (0, 0, 1):
        part = spoiled(graph, 1e-2)
        Fitter(steps=5).fit(section, samples, [part], Context(inputs=(), seed=seed), "test")
        found.append(part.tensor.detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_what_is_held_out_is_not_learned_on() -> None:
    """The last batches are another function's: learning does not see them, and judges by them."""
    graph, section, samples = problem()
    wanted = [{graph["y"]: execute(graph, [flow[graph["x"]]])[0]} for flow in samples.given]
    for flow in wanted[-2:]:
        flow[graph["y"]] = -flow[graph["y"]]
    part = Given([(graph["y"], graph["u"])], torch.zeros(8, 16), rate=1e-2)
    samples = Samples(samples.exact, samples.given, samples.masks, wanted)
    fit = Fitter(steps=20).fit(section, samples, [part], Context(inputs=()), "test")
    assert fit.step == 0 and fit.before == pytest.approx(1.0)


def test_a_changed_input_is_made_up_for() -> None:
    graph, section, samples = problem()
    x = graph["x"]
    given = [{**flow, x: 0.5 * flow[x]} for flow in samples.exact]
    part = Given([(graph["a"], graph["w"])], graph.store["w"], rate=5e-2)
    samples = Samples(samples.exact, given, samples.masks)
    fit = Fitter(steps=200).fit(section, samples, [part], Context(inputs=()), "test")
    assert fit.after < 1e-2 * fit.before
    dropped = Fitter(steps=200, drop=1.0)  # only the exact stream is learned on: nothing to do
    part = Given([(graph["a"], graph["w"])], graph.store["w"], rate=5e-2)
    assert dropped.fit(section, samples, [part], Context(inputs=()), "test").step == 0


def test_readers_see_what_is_computed_for_them_alone() -> None:
    graph, section, samples = problem()
    parts: list[Learnable] = [
        Computed([(graph["y"], graph["h"])], lambda h: h + 1.0),
        Given([(graph["y"], graph["u"])], graph.store["u"]),
    ]
    fit = Fitter(steps=3).fit(section, samples, parts, Context(inputs=()), "test")
    moved = graph.store["u"].sum(1).expand(32, 8)
    outputs = [execute(graph, [flow[graph["x"]]])[0] for flow in samples.given[-2:]]
    shares = [float(moved.square().sum() / y.square().sum()) for y in outputs]
    assert fit.step == 0 and fit.before == pytest.approx(sum(shares) / 2, rel=1e-4)


def test_padding_and_infinities_count_for_nothing() -> None:
    wanted = torch.tensor([[[1.0, 2.0], [float("-inf"), 2.0]], [[3.0, 4.0], [9.0, 9.0]]])
    found = torch.tensor([[[1.0, 3.0], [0.0, 2.0]], [[3.0, 4.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, True], [True, False]])
    assert float(damage(found, wanted, mask, "relative")) == pytest.approx(1 / 34)
    assert float(damage(found, wanted, mask, "squared")) == pytest.approx(1 / 6)


def test_the_divergence_is_that_of_the_distributions() -> None:
    wanted, found = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0986123]])  # 1/4 and 3/4
    value = float(damage(found, wanted, None, "divergence"))
    expected = 0.5 * torch.tensor([0.5 / 0.25, 0.5 / 0.75]).log().sum()
    assert value == pytest.approx(float(expected), rel=1e-5)
    assert float(damage(found + 5, found, None, "divergence")) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": -1}, "steps=-1 is not what Fitter takes.*steps: a whole number from 0"),
        ({"steps": 1.5}, "steps=1.5 is not"),
        ({"batches": 0}, "batches: a whole number from 1"),
        ({"floor": 1.5}, "floor: a number from 0 to 1"),
        ({"decay": -0.1}, "decay: a number from 0"),
        ({"drop": 2.0}, "drop: a number from 0 to 1"),
        ({"checks": 0}, "checks: a whole number from 1"),
        ({"schedule": "linear"}, "no schedule 'linear'"),
        ({"optimizer": "sgd"}, "no optimizer 'sgd'"),
        ({"loss": "absolute"}, "no loss 'absolute'"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=f"(?s){says}"):
        Fitter(**options)
