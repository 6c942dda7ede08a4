"""One pass of several, chosen by the loss of the whole model once it is quantized."""

from __future__ import annotations

import re

import pytest
import torch
from graphs import fill

from regauge.ir import Graph, InputError, astype, parse
from regauge.ir.interpret import execute
from regauge.passes import ChooseBest, Context, Quantize, Rotate, Smooth, smooth_quant_plus
from regauge.passes.manager import difference

GATED = """
def graph(x: f32[16, 32], *, n: f32[32], gate: f32[64, 32], up: f32[64, 32], down: f32[32, 64]):
    m: f32[16, 32] = rms_norm(x, n, normalized_shape=(32,), eps=1e-06)
    a: f32[16, 64] = linear(m, gate)
    s: f32[16, 64] = silu(a)
    u: f32[16, 64] = linear(m, up)
    h: f32[16, 64] = mul(s, u)
    y: f32[16, 32] = linear(h, down)
    return y
"""


def with_outliers() -> tuple[Graph, Context]:
    """A gated layer with channels that stand out in what its weights read."""
    graph = parse(GATED)
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator, level=True)
    graph.store["n"] = torch.ones(32)
    graph.store["n"][::8] = 30.0
    batches = [[torch.randn(16, 32, generator=generator)] for _ in range(4)]
    return graph, Context(batches[0], calibration=batches)


def test_one_exponent_serves_the_whole_model() -> None:
    graph, context = with_outliers()
    step = smooth_quant_plus(group=32)
    new, remarks = step(graph, context)
    first = remarks[0]
    assert first.applied and "power" in first.text
    assert len(first.data["errors"]) == len(step.candidates) == 21
    assert min(first.data["errors"]) < 0.9 * first.data["error_before"]
    sites = [remark.text for remark in remarks[1:] if remark.applied]
    assert len({re.findall(r"power [\d.]+", text)[0] for text in sites}) == 1 < len(sites)
    doubles = [[value.double() for value in batch] for batch in context.calibration]
    before, after = (astype(g, torch.float64) for g in (graph, new))
    for batch in doubles:  # folded in float32
        assert difference(execute(after, batch), execute(before, batch)) < 1e-6


def test_the_choice_is_that_of_least_loss() -> None:
    graph, context = with_outliers()
    bad, good = (Smooth(False, "power", (a,), None, 4, 32, insert=False) for a in (0.05, 0.5))
    _, remarks = ChooseBest((bad, good), None, 4, 32)(graph, context)
    losses = remarks[0].data["errors"]
    assert (str(good) in remarks[0].text) == (losses[1] < losses[0])


def test_nothing_is_done_that_does_not_help() -> None:
    graph, context = with_outliers()
    new, remarks = ChooseBest((), None, 4, 32).attempt(graph, context)
    assert str(new) == str(graph)
    assert not remarks[0].applied and "left as it is" in remarks[0].text


def test_passes_that_are_not_exact_are_refused() -> None:
    with pytest.raises(InputError, match="Quantize cannot be chosen"):
        ChooseBest((Rotate(), Quantize()))


def test_it_needs_calibration_data() -> None:
    graph, context = with_outliers()
    with pytest.raises(InputError, match="needs calibration data"):
        smooth_quant_plus().attempt(graph, Context(context.inputs))
