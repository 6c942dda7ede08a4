"""Scales are learned on some data, help on other, and leave the function as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphs import fill
from oracle import doubled

from regauge.ir import Graph, InputError, astype, parse
from regauge.ir.gauge import (
    Region,
    attention_pairs,
    inputs_of_contractions,
    random_element,
    ties_broken,
    transport,
)
from regauge.ir.gauge import apply as fold
from regauge.ir.interpret import execute, flatten
from regauge.ir.laws import Kind
from regauge.passes import Context, LearnScales, Quantize, Remark, Smooth, apply
from regauge.passes.manager import EXACT_TOLERANCE, difference

TEXT = """
def graph(x: f64[128, 32], *, g: f64[32], b: f64[32], w: f64[64, 32], c: f64[64], u: f64[32, 64]):
    n: f64[128, 32] = layer_norm(x, g, b, normalized_shape=(32,))
    a: f64[128, 64] = linear(n, w, c)
    h: f64[128, 64] = relu(a)
    y: f64[128, 32] = linear(h, u)
    return y
"""
TWO_READERS = """
def graph(x: f64[128, 32], *, g: f64[32], w: f64[32, 32], v: f64[32, 32]):
    n: f64[128, 32] = layer_norm(x, g, normalized_shape=(32,))
    a: f64[128, 32] = linear(n, w)
    b: f64[128, 32] = linear(n, v)
    d: f64[128, 32] = mul(b, 0.0001)
    y: f64[128, 32] = add(a, d)
    return y
"""
HEADS = """
def graph(x: f64[2, 5, 8], *, wq: f64[8, 8], wk: f64[8, 8], wv: f64[8, 8], wo: f64[8, 8]):
    q: f64[2, 5, 8] = linear(x, wq)
    k: f64[2, 5, 8] = linear(x, wk)
    v: f64[2, 5, 8] = linear(x, wv)
    qh: f64[2, 1, 5, 8] = unsqueeze(q, dim=1)
    kh: f64[2, 1, 5, 8] = unsqueeze(k, dim=1)
    vh: f64[2, 1, 5, 8] = unsqueeze(v, dim=1)
    a: f64[2, 1, 5, 8] = scaled_dot_product_attention(qh, kh, vh)
    y: f64[2, 1, 5, 8] = linear(a, wo)
    return y
"""


def filled(text: str) -> Graph:
    graph = parse(text)
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator)
    return graph


def spoiled(graph: Graph) -> Graph:
    """The same function in float64 with scales at all sites that nobody would choose."""
    new = astype(graph, torch.float64)
    generator = torch.Generator().manual_seed(3)
    for site in [*inputs_of_contractions(new), *attention_pairs(new)]:
        region = transport(new, site.value, Kind.SCALE, axes=site.axes)
        if isinstance(region, Region) and not ties_broken(new, region):
            fold(new, region, random_element(region, generator))
    return new


def batches(graph: Graph, count: int, seed: int) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shape = [int(size) for size in graph.inputs[0].shape]
    return [[torch.randn(shape, generator=generator)] for _ in range(count)]


def with_outliers() -> tuple[Graph, Context]:
    """A block in which two channels of the norm are far larger, and one is far off zero."""
    graph = filled(TEXT)
    gain, bias = torch.ones(32, dtype=torch.float64), torch.zeros(32, dtype=torch.float64)
    gain[3], gain[7], bias[7] = 30.0, 20.0, 60.0
    weight = graph.store["w"].clone()
    weight[:, [3, 7]] /= 20
    graph.store["g"], graph.store["b"], graph.store["w"] = gain, bias, weight
    data = batches(graph, 12, seed=1)
    return graph, Context(inputs=data[0], calibration=data)


def damage(graph: Graph, context: Context) -> float:
    """The error of eight bits on data that nothing was learned from."""
    single = astype(graph, torch.float32)
    quantized, _ = Quantize("static", rounding="nearest", correct_bias=False)(single, context)
    other = batches(graph, 12, seed=2)
    return sum(difference(execute(quantized, b), execute(single, b)) for b in other) / len(other)


def test_what_is_learned_helps_on_data_that_was_not_seen() -> None:
    graph, context = with_outliers()
    plain = damage(graph, context)
    new, remarks = LearnScales(rate=0.05)(graph, context)
    assert [node.op for node in new.nodes] == [node.op for node in graph.nodes]
    assert damage(new, context) < 0.5 * plain
    assert remarks[-1].data["error_after"] < 0.5 * remarks[-1].data["error_before"]


def test_learning_sees_what_the_outputs_make_of_an_error() -> None:
    """A search at the site favours the reader of the greater error, which hardly counts here."""
    graph = filled(TWO_READERS)
    spread = torch.logspace(0, 2, 32, dtype=torch.float64)
    graph.store["g"] = (graph.store["g"].abs() + 0.1) * spread
    graph.store["w"], graph.store["v"] = graph.store["w"] / spread, graph.store["v"] * 10
    data = batches(graph, 12, seed=1)
    context = Context(inputs=data[0], calibration=data)
    smoothed, _ = Smooth()(graph, context)
    new, remarks = LearnScales(rate=0.03)(smoothed, context)
    found = damage(smoothed, context)
    assert damage(new, context) < 0.75 * found
    assert found < 0.2 * damage(graph, context)
    assert [remark.site for remark in remarks if remark.applied] == ["n", "output"]


@pytest.mark.parametrize("activations", ["static", "dynamic", "dynamic-tensor", None])
def test_every_way_to_quantize_can_be_learned_for(activations: Any) -> None:
    graph, context = with_outliers()
    step = LearnScales(True, activations, bits=4, rate=0.03, steps=30)
    new, remarks = step(graph, context)
    assert (
        remarks[-1].applied and remarks[-1].data["error_after"] < remarks[-1].data["error_before"]
    )
    wanted = execute(graph, [context.inputs[0].double()])
    assert difference(execute(new, [context.inputs[0].double()]), wanted) < 1e-12


def data_for(graph: Graph, zoo: Any, count: int) -> list[list[Any]]:
    """A model's own inputs, the first one with its rows turned."""
    first, *rest = flatten(graph, doubled(zoo.args), zoo.kwargs)
    turned = [torch.roll(first, i, -1) for i in range(count)]
    return [[t.float() if t.is_floating_point() else t, *rest] for t in turned]


@pytest.mark.parametrize(
    "name", ["llama", "qwen3", "bert", "gpt2", "opt", "vit", "resnet", "mixtral"]
)
def test_the_function_stays_as_it_is(
    traced: Callable[..., Graph], zoo_model: Callable[..., Any], name: str
) -> None:
    graph = spoiled(traced(name))
    data = data_for(graph, zoo_model(name), 4)
    step = LearnScales(True, bits=4, attention=True, correct_bias=False, steps=9, rate=0.03)
    _, (report, _) = apply(graph, [step], Context(inputs=data[0], calibration=data))
    assert report.damage < EXACT_TOLERANCE
    assert report.applied and report.applied[-1].site == "output", [str(r) for r in report.missed]


def test_rotary_pairs_and_shared_keys_take_one_scale(
    traced: Callable[..., Graph], zoo_model: Callable[..., Any]
) -> None:
    graph = spoiled(traced("llama"))
    data = data_for(graph, zoo_model("llama"), 4)
    step = LearnScales(bits=4, attention=True, steps=12, rate=0.05)
    new, remarks = step.attempt(graph, Context(data[0], calibration=data))
    assert remarks[-1].applied
    key, query = (next(n for n in graph.params if part in n) for part in ("k_proj", "q_proj"))
    by_key = _row_scale(graph.store[key], new.store[key]).reshape(2, 2, 4)  # (head, half, channel)
    by_query = _row_scale(graph.store[query], new.store[query]).reshape(2, 2, 2, 4)
    torch.testing.assert_close(by_key[:, 0], by_key[:, 1])
    torch.testing.assert_close(by_query, (1 / by_key)[:, None].expand(2, 2, 2, 4))
    assert float(by_key.std()) > 0.01


def _row_scale(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """The scale of each row, of a matrix whose rows and columns were scaled, its mean log 0."""
    ratio = torch.log(after / before).mean(1)
    return torch.exp(ratio - ratio.mean())


def test_queries_and_keys_have_scales_only_where_attention_is_quantized() -> None:
    graph = spoiled(filled(HEADS))
    data = batches(graph, 4, seed=1)
    sites: dict[bool, set[str]] = {}
    for attention in (False, True):
        step = LearnScales(bits=4, attention=attention, steps=8, rate=0.05)
        new, remarks = step.attempt(graph, Context(data[0], calibration=data))
        sites[attention] = {remark.site for remark in remarks if remark.applied}
        inputs = [data[0][0].double()]
        assert difference(execute(new, inputs), execute(graph, inputs)) < 1e-12
    assert sites == {False: {"a", "output"}, True: {"a", "kh", "output"}}


def test_the_seed_decides() -> None:
    graph, context = with_outliers()

    def weights(seed: int) -> list[torch.Tensor]:
        context.seed = seed
        return list(LearnScales(steps=10)(graph, context)[0].store.values())

    first, again, other = weights(0), weights(0), weights(1)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


def missed_last(step: LearnScales, graph: Graph, context: Context) -> Remark:
    """The last remark, where the graph must be left as it was."""
    new, remarks = step.attempt(graph, context)
    assert str(new) == str(graph)
    assert all(torch.equal(new.store[name], graph.store[name]) for name in graph.store)
    assert not any(remark.applied for remark in remarks)
    return remarks[-1]


def test_without_gain_the_graph_is_left_alone() -> None:
    graph, context = with_outliers()
    remark = missed_last(LearnScales(shift=True, rate=30.0, steps=1), graph, context)
    assert remark.text.startswith(
        "left as it is: learning does not lower the error on held-out data"
    )


def test_one_batch_is_too_little() -> None:
    graph, context = with_outliers()
    context.calibration = context.calibration[:1]
    remark = missed_last(LearnScales(), graph, context)
    assert remark.text == "left as it is: of one batch of calibration data none can be held out"


def test_there_may_be_nothing_to_learn() -> None:
    graph = filled(
        """
        def graph(x: f64[4, 8], *, w: f64[8, 8], u: f64[8, 8]):
            a: f64[4, 8] = linear(x, w)
            h: f64[4, 8] = gelu(a)
            y: f64[4, 8] = linear(h, u)
            return y
        """
    )
    data = batches(graph, 4, seed=1)
    step = LearnScales()
    new, remarks = step.attempt(graph, Context(data[0], calibration=data))
    assert str(new) == str(graph)
    assert [remark.text for remark in remarks] == [
        "no scale: x (input): it is an input of the graph",
        "no scale: h (gelu): gelu does not commute with a scale",
        "left as it is: no site takes an element",
    ]


def test_data_is_asked_for() -> None:
    graph, context = with_outliers()
    context.calibration = ()
    with pytest.raises(InputError, match="LearnScales needs calibration data"):
        LearnScales()(graph, context)
