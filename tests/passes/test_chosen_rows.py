"""Passes on layers that see the rows which data choose: in some batches none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import regauge as rg
from regauge.ir import InputError
from regauge.passes import DropLayers, Pass, Prune, Sparsify


class Chosen(nn.Module):
    """A residual network that rows with a positive first number go through."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(32, 32)
        self.expert = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        (rows,) = torch.where(x[:, 0] > 0)
        x = self.first(x)
        return x.index_add(0, rows, self.expert(x[rows]))


def data(*signs: float) -> list[tuple[Tensor]]:
    torch.manual_seed(1)
    batches = [torch.randn(16, 32) for _ in signs]
    return [(batch.abs() * sign,) for batch, sign in zip(batches, signs, strict=True)]


@pytest.mark.parametrize(
    "passes",
    [
        pytest.param("w8a8", id="static"),
        pytest.param("w8a8-dynamic", id="dynamic"),
        pytest.param("w4a16", id="weights"),
        pytest.param(Prune(0.2, score="taylor"), id="gradients"),
        pytest.param(DropLayers(0.5), id="similarity"),
        pytest.param(Sparsify(0.3), id="sparsity"),
    ],
)
def test_a_batch_may_have_none(passes: str | Pass) -> None:
    batches = data(1, -1, 1)
    art = rg.compile(
        Chosen().eval(), batches[0], passes=passes, calibration=batches, target="torch"
    )
    assert art.report.errors[0].relative_l2 < 1
    for (x,) in batches:
        assert art(x).isfinite().all()


def test_a_range_that_no_batch_shows_is_named() -> None:
    with pytest.raises(InputError, match=r"no calibration batch gives .* a row") as caught:
        rg.compile(Chosen().eval(), data(1)[0], passes="w8a8", calibration=data(-1, -1))
    assert "w8a8-dynamic" in caught.value.do


def test_weights_that_no_batch_reaches_are_rounded_as_they_are() -> None:
    art = rg.compile(
        Chosen().eval(),
        data(1)[0],
        passes="w8a8-dynamic",
        calibration=data(-1, -1),
        target="torch",
    )
    assert art.report.errors[0].relative_l2 < 0.05
