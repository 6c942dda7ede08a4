"""RepQuant's two reparameterisations (A52, F3): no code changes."""

from __future__ import annotations

import torch
from graphs import fill

from regauge.ir import parse
from regauge.ir.formats import named
from regauge.ir.interpret import execute
from regauge.passes import Context, repquant

TEXT = """
def graph(x: f64[64, 16], *, g: f64[16], b: f64[16], w: f64[8, 16], c: f64[8]):
    n: f64[64, 16] = layer_norm(x, g, b, normalized_shape=(16,))
    y: f64[64, 8] = linear(n, w, c)
    return y
"""


def test_codes_by_channel_are_the_codes_of_one_range_after_it() -> None:
    graph = parse(TEXT)
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator)
    graph.store["g"] = graph.store["g"] * torch.logspace(-1, 1, 16, dtype=torch.float64)
    single = [torch.randn(64, 16, generator=generator)]
    new, _ = repquant()(graph, Context(inputs=single, calibration=[single]))
    data = [single[0].double()]
    for each in (graph, new):
        each.returns(each["n"])
    before, after = execute(graph, data)[0], execute(new, data)[0]
    low, high = before.amin(0), before.amax(0)  # a range for each channel
    assert float((high - low).max() / (high - low).min()) > 10
    assert float((after.amax(0) - after.amin(0)).std()) < 1e-5  # now they have one
    for reach in (15, 255):
        mine = torch.round((before - low) / (high - low) * reach)
        shared = torch.round((after - after.min()) / (after.max() - after.min()) * reach)
        # Ranges are kept in single precision: what lies between two codes may go either way.
        assert int((mine != shared).sum()) <= 2


def test_the_logarithm_to_the_root_of_two_is_a_shift_with_two_scales() -> None:
    probabilities = torch.rand(1000, generator=torch.Generator().manual_seed(0)).double()
    form = named("logsqrt2-4")
    quantized = form.quantize(probabilities)
    q = quantized.codes.int()
    root = torch.tensor(2.0, dtype=torch.float64).sqrt()
    shift = (q + 1) // 2  # ceil(q / 2)
    scale = quantized.parameters.scale * torch.where(q % 2 == 1, root, 1.0)
    shifted = torch.where(q == 15, 0.0, torch.ldexp(scale, -shift))
    torch.testing.assert_close(shifted, quantized.dequantize(), rtol=1e-14, atol=0)
    steps = -2 * torch.log2(probabilities / quantized.parameters.scale)
    expected = torch.round(steps).clamp(0, 15)
    assert torch.equal(q, expected.int())
