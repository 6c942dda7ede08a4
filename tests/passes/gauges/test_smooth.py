from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from graphs import fill

from regauge.ir import Graph, parse
from regauge.ir.interpret import execute
from regauge.passes import (
    Context,
    Pass,
    Quantize,
    Smooth,
    awq,
    os_plus,
    pre_shift,
    repquant,
    smooth_quant,
)
from regauge.passes.gauges import smooth
from regauge.passes.manager import difference

TEXT = """
def graph(x: f64[8, 16, 32], *, g: f64[32], b: f64[32], w: f64[64, 32], c: f64[64], u: f64[32, 64]):
    n: f64[8, 16, 32] = layer_norm(x, g, b, normalized_shape=(32,))
    a: f64[8, 16, 64] = linear(n, w, c)
    h: f64[8, 16, 64] = gelu(a)
    f: f64[8, 16, 32] = linear(h, u)
    r: f64[8, 16, 32] = add(n, f)
    y: f64[8, 16, 32] = layer_norm(r, normalized_shape=(32,))
    return y
"""


def with_outliers() -> tuple[Graph, Context]:
    """A post-LN block in which two channels of the norm are far larger, and shifted."""
    graph = parse(TEXT)
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator)
    gain, bias = torch.ones(32, dtype=torch.float64), torch.zeros(32, dtype=torch.float64)
    gain[3], gain[7], bias[7] = 30.0, 20.0, 60.0
    graph.store["g"], graph.store["b"] = gain, bias
    weight = graph.store["w"].clone()
    weight[:, [3, 7]] /= 20  # such a channel is read by small weights, as in trained networks
    graph.store["w"] = weight
    x = torch.randn(8, 16, 32, generator=generator, dtype=torch.float64)
    return graph, Context(inputs=[x], calibration=[[x.float()]])


def damage(*passes: Pass) -> float:
    from regauge.ir import astype

    graph, context = with_outliers()
    wanted = execute(graph, context.inputs)
    for step in passes:
        if isinstance(step, Quantize):
            graph = astype(graph, torch.float32)
        graph, _ = step.attempt(graph, context)
    inputs = [context.inputs[0].to(graph.inputs[0].dtype)]
    return difference(execute(graph, inputs), wanted)


def test_smoothing_alone_changes_nothing() -> None:
    for step in (
        Smooth(shift=True),
        Smooth("folded"),
        os_plus(),
        smooth_quant(0.5),
        Smooth(activations="dynamic"),
        awq(group=16),
        repquant(),
        pre_shift(),
        Smooth(True, "range"),
        Smooth(False, "exponent", (5.0,)),
    ):
        assert damage(step) < 1e-12


def test_smoothing_makes_quantization_better() -> None:
    quantize = Quantize("static", rounding="nearest", correct_bias=False)
    plain, power, threshold = (
        damage(quantize),
        damage(Smooth(), quantize),
        damage(os_plus(), quantize),
    )
    assert power < 0.5 * plain
    assert threshold < 0.5 * plain


def test_the_shortcut_of_a_post_norm_block_gets_the_original_back() -> None:
    graph, context = with_outliers()
    new, remarks = Smooth().attempt(graph, context)
    assert new["r"].args[0].name == "n_original"
    assert "undone for r" in remarks[0].text


def test_without_insertion_only_free_sites_are_touched() -> None:
    graph, context = with_outliers()
    new, remarks = smooth_quant(0.5).attempt(graph, context)
    assert [remark.applied for remark in remarks] == [False, False]
    assert "gelu does not commute with a scale" in remarks[1].text
    assert str(new) == str(graph)


@pytest.mark.parametrize(("shift", "by_op"), [(False, False), ("folded", False), (True, True)])
def test_a_folded_shift_is_no_op_of_its_own(shift: bool | Literal["folded"], by_op: bool) -> None:
    graph, context = with_outliers()
    new, remarks = Smooth(shift, "range", (1.0,)).attempt(graph, context)
    assert any("shift in" in remark.text for remark in remarks) == bool(shift)
    assert any(node.name.endswith("_shifted") for node in new.nodes) == by_op


def test_a_shared_table_takes_up_scales_and_lookups_give_them_back() -> None:
    graph = parse("""
        def graph(t: i64[8, 16], *, w: f64[64, 32], g: f64[32], u: f64[32, 32]):
            e: f64[8, 16, 32] = embedding(w, t)
            a: f64[8, 16, 32] = linear(e, u)
            n: f64[8, 16, 32] = rms_norm(a, g, normalized_shape=(32,))
            y: f64[8, 16, 64] = linear(n, w)
            return y
        """)
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator)
    gain = torch.ones(32, dtype=torch.float64)
    gain[3], gain[7] = 40.0, 30.0
    graph.store["g"] = gain
    table = graph.store["w"].clone()
    table[:, [3, 7]] /= 20
    graph.store["w"] = table
    tokens = torch.randint(64, (8, 16), generator=generator)
    context = Context(inputs=[tokens], calibration=[[tokens]])
    new, remarks = Smooth()(graph, context)
    last = remarks[-1]
    assert last.applied and last.data["error_after"] < 0.6 * last.data["error_before"]
    assert list(new.params) == ["w", "g", "u", "e_scale"]
    found, wanted = (execute(g, [tokens]) for g in (new, graph))
    assert difference(found, wanted) < 1e-12
    _, kept = Smooth(insert=False).attempt(graph, context)
    assert "it would break the tie of w" in kept[-1].text


def test_heads_that_share_values_get_equal_scales() -> None:
    """60 channels are no whole number of vectors, so a processor may take powers in two ways."""
    graph = parse("""
        def graph(q: f32[2, 6, 16, 10], k: f32[2, 2, 16, 10], x: f32[2, 16, 30], *, v: f32[20, 30],
                  o: f32[30, 60]):
            a: f32[2, 16, 20] = linear(x, v)
            b: f32[2, 16, 2, 10] = reshape(a, shape=(2, 16, 2, 10))
            c: f32[2, 2, 16, 10] = permute(b, dims=(0, 2, 1, 3))
            g: f32[2, 6, 16, 10] = scaled_dot_product_attention(q, k, c, enable_gqa=True)
            h: f32[2, 16, 6, 10] = permute(g, dims=(0, 2, 1, 3))
            i: f32[2, 16, 60] = reshape(h, shape=(2, 16, 60))
            y: f32[2, 16, 30] = linear(i, o)
            return y
        """)
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator)
    graph.store["v"] *= torch.logspace(-1, 1, 20)[:, None]
    shapes = ((2, 6, 16, 10), (2, 2, 16, 10), (2, 16, 30))
    x = [torch.randn(shape, generator=generator) for shape in shapes]
    context = Context(inputs=x, calibration=[x, x])
    done = 0
    for part in range(1, 20):
        new, remarks = smooth_quant(part / 20).attempt(graph, context)
        done += any(remark.applied for remark in remarks)
        assert difference(execute(new, x), execute(graph, x)) < 1e-5
    assert done > 5


def test_one_range_for_all_channels() -> None:
    graph, context = with_outliers()
    new, remarks = Smooth(True, "range")(graph, context)
    assert remarks[0].applied and "one range" in remarks[0].text
    values: dict[str, torch.Tensor] = {}
    execute(new, context.inputs, tap=lambda node, value: values.__setitem__(node.name, value))
    (reader,) = (node for node in new.nodes if node.name == "a")
    rows = values[reader.args[0].name].reshape(-1, 32)
    low, high = rows.amin(0), rows.amax(0)
    torch.testing.assert_close(low, low[:1].expand(32), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(high, high[:1].expand(32), rtol=1e-4, atol=1e-4)


def test_exponents_are_whole() -> None:
    graph, context = with_outliers()
    for bits, most in ((1, 2.0), (2, 8.0)):
        new, remarks = replace(pre_shift(bits), insert=True)(graph, context)
        assert remarks[0].applied
        ratio = graph.store["g"] / new.store[next(n for n in new.params if n.startswith("g"))]
        assert torch.equal(torch.log2(ratio), torch.log2(ratio).round())
        assert float(ratio.min()) == 1.0 and float(ratio.max()) == most


def test_scales_for_weights_of_four_bits_lower_their_error() -> None:
    """By the simulated error of the site: what it is searched by, and held-out rows agree."""
    graph, context = with_outliers()
    other = torch.randn(8, 16, 32, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    new, remarks = awq(group=16)(graph, context)
    assert any(remark.applied for remark in remarks)

    def error(which: Graph) -> float:
        from regauge.passes.quantization.simulated import fake_quantize_weights

        (reader,) = (node for node in which.nodes if node.name == "a")
        values: dict[str, torch.Tensor] = {}
        execute(which, [other], tap=lambda node, value: values.__setitem__(node.name, value))
        weight, rows = which.value(reader.args[1]), values[reader.args[0].name]
        gap = rows @ (fake_quantize_weights(weight, 4, 16) - weight).T
        return float((gap - gap.mean((0, 1))).norm())

    assert error(new) < 0.9 * error(graph)


def with_rare_peaks(batches: int) -> tuple[Graph, Context, list[torch.Tensor]]:
    """Every channel has a peak of its own now and then, which few batches show; and other data."""
    text = "def graph(x: f32[32, 64], *, w: f32[64, 64], u: f32[48, 64]):\n"
    text += "    h: f32[32, 64] = linear(x, w)\n    y: f32[32, 48] = linear(h, u)\n    return y"
    graph = parse(text)
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator)
    graph.store["w"] = torch.eye(64)

    def draw() -> torch.Tensor:
        rare = torch.rand(32, 64, generator=generator) < 0.01
        return torch.randn(32, 64, generator=generator) * torch.where(rare, 8.0, 1.0)

    found = [draw() for _ in range(batches)]
    return graph, Context(inputs=[found[0]], calibration=[[x] for x in found]), found


@pytest.mark.parametrize("step", [os_plus(), Smooth()], ids=["threshold", "power"])
def test_scales_are_judged_on_batches_that_they_were_not_made_of(
    step: Smooth, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, context, _ = with_rare_peaks(4)
    others = [x for seed in range(3) for x in with_rare_peaks(12 + seed)[2][4:]]

    def error() -> float:
        new = graph
        for each in (step, Quantize("static", rounding="nearest", correct_bias=False)):
            new, _ = each.attempt(new, context)
        pairs = [(execute(new, [x])[0], execute(graph, [x])[0]) for x in others]
        return difference(*([torch.cat(side)] for side in zip(*pairs, strict=True)))

    held_out = error()
    monkeypatch.setattr(smooth, "FOLDS", 1)
    assert held_out < 0.98 * error()
