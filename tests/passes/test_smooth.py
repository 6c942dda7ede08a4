from __future__ import annotations

import torch

from regauge.ir import Graph, parse
from regauge.ir.interpret import execute
from regauge.passes import Context, Pass, Quantize, Smooth, os_plus, smooth_quant
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
    for name, node in graph.params.items():
        shape = [int(size) for size in node.shape]
        graph.store[name] = torch.randn(shape, generator=generator, dtype=torch.float64)
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
        graph, _ = step(graph, context)
    inputs = [context.inputs[0].to(graph.inputs[0].dtype)]
    return difference(execute(graph, inputs), wanted)


def test_smoothing_alone_changes_nothing() -> None:
    for step in (Smooth(shift=True), os_plus(), smooth_quant(0.5), Smooth(activations="dynamic")):
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
    new, remarks = Smooth()(graph, context)
    assert new["r"].args[0].name == "n_original"
    assert "undone for r" in remarks[0].text


def test_without_insertion_only_free_sites_are_touched() -> None:
    graph, context = with_outliers()
    new, remarks = smooth_quant(0.5)(graph, context)
    assert [remark.applied for remark in remarks] == [False, False]
    assert "gelu does not commute with a scale" in remarks[1].text
    assert str(new) == str(graph)
