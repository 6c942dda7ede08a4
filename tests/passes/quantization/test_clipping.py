from __future__ import annotations

import pytest
import torch
from graphs import fill

from regauge.ir import parse
from regauge.ir.formats import named
from regauge.ir.interpret import execute
from regauge.passes import Context, Quantize
from regauge.passes.manager import difference
from regauge.passes.quantization.clipping import ROWS, least_error, of_share, sample
from regauge.passes.quantization.values import Coding, Limits, Simulated


def static(limits: Limits) -> Coding:
    form = named("int4-asym")
    return Simulated(form, form.of_range(*limits))


def rows(outlier: float) -> torch.Tensor:
    """Numbers within 3, and one that is not."""
    found = torch.randn(500, 8, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    found[0, 0] = outlier
    return found


def limits(found: torch.Tensor) -> Limits:
    low, high = found.aminmax()
    return low, high


def test_what_few_need_is_left_out_where_all_others_pay_for_it() -> None:
    data, ones = rows(20.0), torch.ones(8)
    seen = limits(data)
    low, high = least_error(data, ones, seen, static)
    assert float(high) < 18

    def cost(found: Limits) -> float:
        return float((static(found).simulate(data) - data).square().sum())

    assert cost((low, high)) < cost(seen)
    evenly = rows(3.0)
    assert float(least_error(evenly, ones, limits(evenly), static)[1]) > 2


def test_a_channel_counts_by_what_reads_it() -> None:
    data = rows(20.0)
    importance = torch.full((8,), 1e-3)
    importance[0] = 1.0
    assert least_error(data, importance, limits(data), static)[1] > 15
    importance[0] = 0.0
    assert least_error(data, importance, limits(data), static)[1] < 4


def test_the_sample_is_even_over_batches() -> None:
    batches = [torch.arange(5000.0)[:, None] + 10_000 * i for i in range(4)]
    found = sample(batches)
    assert len(found) == ROWS
    assert torch.equal(found[:: ROWS // 4, 0], torch.tensor([0.0, 10_000, 20_000, 30_000]))
    assert torch.equal(sample([torch.ones(3, 2)]), torch.ones(3, 2))


@pytest.mark.parametrize("activations", ["static", "static-int6"])
def test_a_user_may_ask_for_it(activations: str) -> None:
    graph = parse(
        """
        def graph(x: f32[64, 32], *, w: f32[64, 32]):
            y: f32[64, 64] = linear(x, w)
            return y
        """
    )
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator)
    graph.store["w"][:, 0] = 0
    x = torch.randn(64, 32, generator=generator)
    x[:, 0] *= 6  # a channel that nobody reads
    context = Context(inputs=[x], calibration=[[x]])
    errors: dict[object, float] = {}
    for ranges in ("seen", "error", 0.97):
        options = Quantize(activations, activation_ranges=ranges)  # type: ignore[arg-type]
        new, _ = options(graph, context)
        errors[ranges] = difference(execute(new, [x]), execute(graph, [x]))
    assert errors["error"] < 0.4 * errors["seen"] != errors[0.97]


def test_a_range_may_hold_a_share_of_all_numbers() -> None:
    data = torch.arange(1000.0)[:, None]
    assert of_share(data, 1.0, (torch.tensor(-5.0), torch.tensor(2000.0))) == (-5, 2000)
    assert of_share(data, 0.9, limits(data)) == (50, 949)
