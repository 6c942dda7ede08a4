"""Blocks are reconstructed better than rounding leaves them; what was learned is what is stored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from regauge.ir import Graph, InputError, parse
from regauge.ir.codes import fits_pairs
from regauge.ir.interpret import execute
from regauge.passes import Context, Quantize, Reconstruct
from regauge.passes.fitting import Fitter
from regauge.passes.manager import difference
from regauge.passes.quantization.learned_rounding import Rates

TEXT = """
def graph(x: f32[64, 32], *, g: f32[32], b: f32[32], w: f32[64, 32], c: f32[64], u: f32[32, 64],
          v: f32[64, 32], d: f32[64], t: f32[32, 64]):
    n: f32[64, 32] = layer_norm(x, g, b, normalized_shape=(32,))
    a: f32[64, 64] = linear(n, w, c)
    h: f32[64, 64] = gelu(a)
    y: f32[64, 32] = linear(h, u)
    r: f32[64, 32] = add(x, y)
    m: f32[64, 32] = layer_norm(r, g, b, normalized_shape=(32,))
    e: f32[64, 64] = linear(m, v, d)
    k: f32[64, 64] = gelu(e)
    z: f32[64, 32] = linear(k, t)
    s: f32[64, 32] = add(r, z)
    return s
"""
CONVOLUTION = """
def graph(x: f32[8, 16, 6, 6], *, w: f32[32, 16, 3, 3], c: f32[32], u: f32[16, 32, 3, 3]):
    a: f32[8, 32, 4, 4] = conv2d(x, w, c)
    h: f32[8, 32, 4, 4] = relu(a)
    y: f32[8, 16, 2, 2] = conv2d(h, u)
    return y
"""


def sample(text: str = TEXT, batches: int = 8) -> tuple[Graph, Context, list[list[torch.Tensor]]]:
    """A graph, data to calibrate on, and other data."""
    graph = parse(text)
    generator = torch.Generator().manual_seed(0)
    for name, node in graph.params.items():
        shape = [int(size) for size in node.shape]
        value = torch.randn(shape, generator=generator)
        graph.store[name] = value if len(shape) == 1 else value / value[0].numel() ** 0.5
    shape = [int(size) for size in graph.inputs[0].shape]
    mix = torch.randn(shape[-1], shape[-1], generator=generator)
    data = [[torch.randn(shape, generator=generator) @ mix] for _ in range(2 * batches)]
    return graph, Context(inputs=data[0], calibration=data[:batches]), data[batches:]


def damage(new: Graph, graph: Graph, data: list[list[torch.Tensor]]) -> float:
    found = [execute(new, batch)[0] for batch in data]
    return difference(found, [execute(graph, batch)[0] for batch in data])


FEW = Fitter(steps=60)
NEAREST: dict[str, Any] = {"rounding": "nearest", "correct_bias": False}


@pytest.mark.parametrize("method", ["steps", "block-ap", "flexround", "adaround"])
@pytest.mark.parametrize("weights", ["int3-channel", "int3-g16-asym"])
def test_every_method_beats_rounding_on_fresh_data(method: Any, weights: str) -> None:
    graph, context, fresh = sample()
    plain, _ = Quantize(None, weights, **NEAREST)(graph, context)
    step = Reconstruct(None, weights, method=method, fitter=FEW, **NEAREST)
    new, remarks = step(graph, context)
    best = 0.97 if method == "steps" else 0.85
    assert damage(new, graph, fresh) < best * damage(plain, graph, fresh)
    ops = [node.op for node in new.nodes]
    assert ops == [node.op for node in plain.nodes]
    assert all(new.store.type(name) == plain.store.type(name) for name in plain.params)
    told = [remark for remark in remarks if "error_after" in remark.data]
    assert len(told) == 2
    assert all(remark.data["error_after"] <= remark.data["error_before"] for remark in told)


def test_what_was_judged_is_what_is_stored() -> None:
    """The last section's error on held-out data is the graph's."""
    graph, context, _ = sample()
    rates = Rates(weights=3e-2, steps=1e-3, zeros=1e-2, ranges=1e-2, vectors=1e-2)
    step = Reconstruct("static", "int4-g16-asym", rates=rates, fitter=FEW)
    new, remarks = step(graph, context)
    told = [remark.data["error_after"] for remark in remarks if "error_after" in remark.data]
    held_out = context.calibration[-2:]
    errors = [damage(new, graph, [list(batch)]) ** 2 for batch in held_out]
    assert (sum(errors) / 2) ** 0.5 == pytest.approx(told[-1], rel=1e-4)


def test_ranges_and_weights_are_learned_for_integer_kernels() -> None:
    """One channel is large, and nobody reads much of it: its range is not worth its steps."""
    graph, context, fresh = sample()
    large = torch.ones(32)
    large[3] = 20.0
    graph.store["g"], graph.store["b"] = graph.store["g"] * large, graph.store["b"] * large
    for name in ("w", "v"):
        graph.store[name] = graph.store[name] / large**2
    for pairs in (False, True):
        context = replace(context, pairs_in_16_bits=pairs)
        plain, _ = Quantize("static")(graph, context)
        rates = Rates(weights=3e-2, ranges=1e-1)
        new, _ = Reconstruct("static", rates=rates, fitter=FEW)(graph, context)
        assert damage(new, graph, fresh) < 0.8 * damage(plain, graph, fresh)
        codes = [new.store[name] for name in new.params if name.endswith("_codes")]
        assert len(codes) == 4 and all(code.dtype == torch.int8 for code in codes)
        assert all(map(fits_pairs, codes)) or not pairs


@pytest.mark.parametrize("method", ["flexround", "adaround"])
def test_convolutions_are_reconstructed(method: Any) -> None:
    graph, context, fresh = sample(CONVOLUTION)
    plain, _ = Quantize(None, **NEAREST)(graph, context)
    new, _ = Reconstruct(None, method=method, cut="layer", fitter=FEW, **NEAREST)(graph, context)
    assert damage(new, graph, fresh) < 0.98 * damage(plain, graph, fresh)


def test_learning_starts_at_the_codes_of_gptq() -> None:
    graph, context, _ = sample()
    seen = replace(context, calibration=context.calibration[:-2])  # the rest is held out
    plain, _ = Quantize(None, "int3-g16-asym")(graph, seen)
    for method in ("block-ap", "flexround", "adaround"):
        none = Fitter(steps=0)
        new, _ = Reconstruct(None, "int3-g16-asym", method=method, fitter=none)(graph, context)  # type: ignore[arg-type]
        assert str(new) == str(plain)
        for name in plain.params:
            torch.testing.assert_close(new.store[name], plain.store[name], rtol=1e-6, atol=1e-6)


def test_scales_are_learned_end_to_end_and_codes_stay() -> None:
    graph, context, fresh = sample()
    options: dict[str, Any] = {"method": "block-ap", "fitter": FEW, **NEAREST}
    by_block, _ = Reconstruct(None, "int2-g16-asym", **options)(graph, context)
    end = Fitter(steps=60)
    step = Reconstruct(
        None, "int2-g16-asym", end_to_end=end, end_rates=Rates(steps=1e-2), **options
    )
    new, _ = step(graph, context)
    for name in by_block.params:
        same = torch.equal(new.store[name], by_block.store[name])
        assert same == (not name.endswith("_scale")), name
    assert damage(new, graph, fresh) < 0.97 * damage(by_block, graph, fresh)


def test_adaround_refuses_what_has_no_neighbouring_integers() -> None:
    graph, context, _ = sample()
    with pytest.raises(InputError, match="AdaRound chooses between neighbouring integers"):
        Reconstruct(None, "fp4-e2m1-g16", method="adaround")(graph, context)


def test_flexround_takes_any_format() -> None:
    graph, context, fresh = sample()
    plain, _ = Quantize(None, "fp4-e2m1-g16", **NEAREST)(graph, context)
    step = Reconstruct(None, "fp4-e2m1-g16", method="flexround", fitter=FEW, **NEAREST)
    assert damage(step(graph, context)[0], graph, fresh) < 0.95 * damage(plain, graph, fresh)


def test_there_is_nothing_to_learn_without_data() -> None:
    graph, _, _ = sample()
    with pytest.raises(InputError, match="Reconstruct needs calibration data"):
        Reconstruct(None, "int4-g16")(graph, Context(inputs=()))


def test_rates_below_zero_are_refused() -> None:
    with pytest.raises(InputError, match=r"(?s)ranges=-0\.1 is not what Rates takes.*from 0"):
        Rates(weights=1e-2, ranges=-0.1)
