"""Outlying channels in several copies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import regauge as rg
from regauge.ir import Graph, SiteError
from regauge.ir.interpret import execute
from regauge.passes import Context, Quantize, Smooth, SplitOutliers
from regauge.passes.gauges.split_outliers import fitted


class Hidden(nn.Module):
    def __init__(self, outlier: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 64)
        self.up.weight.data[7] *= outlier
        self.down.weight.data[:, 7] *= outlier
        for values in (self.up.weight.data, self.up.bias.data):
            values[8] = values[7]
        self.down.weight.data[:, 8] = -self.down.weight.data[:, 7]  # all that is left is its error

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.nn.functional.gelu(self.up(x)))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(1))


def traced(outlier: float, x: Tensor) -> tuple[Graph, Context]:
    graph = rg.trace(Hidden(outlier).eval(), (x,))
    return graph, Context(inputs=[x], calibration=[[x]])


def test_outliers_in_copies_round_to_less_error(x: Tensor) -> None:
    graph, context = traced(8.0, x)
    wanted = execute(graph, [x])[0]
    split, remarks = SplitOutliers(share=0.25)(graph, context)
    torch.testing.assert_close(execute(split, [x])[0], wanted, rtol=1e-4, atol=1e-4)
    (done,) = [remark for remark in remarks if remark.applied]
    assert done.text.startswith("128 channels to 160") and done.data["gain"] > 8
    errors: list[float] = []
    for start in (graph, split):
        smooth, _ = Smooth()(start, context)
        quantized, _ = Quantize("static", least=1)(smooth, context)
        errors.append(float((execute(quantized, [x])[0] - wanted).norm() / wanted.norm()))
    assert errors[1] < 0.7 * errors[0]


def test_without_outliers_nothing_is_added(x: Tensor) -> None:
    graph, context = traced(1.0, x)
    with pytest.raises(SiteError, match="left as it is"):
        SplitOutliers()(graph, context)


def test_copies_fit_and_make_the_greatest_part_least() -> None:
    product = torch.tensor([1.0, 10.0, 3.0, 0.0])
    copies = fitted(product, 10)
    assert copies.tolist() == [1, 6, 2, 1]
    assert fitted(product, 4).tolist() == [1, 1, 1, 1]
    assert fitted(torch.zeros(3), 5).tolist() == [1, 1, 1]
