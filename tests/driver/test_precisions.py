"""Models in other precisions than float32 go through every kind of pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import regauge as rg
from regauge.ir import InputError, TargetError
from regauge.passes import Distill, DropLayers, Factorize, LearnScales, Prune, Reconstruct, Sparsify
from regauge.passes.fitting import Fitter

PASSES = {
    "exact": "exact",
    "static": "w8a8",
    "dynamic": "w8a8-dynamic",
    "weights": "w4a16",
    "scales": LearnScales(steps=2),
    "width": Prune(0.2),
    "depth": [DropLayers(0.3, kinds=("operator",), score="output"), Distill(Fitter(steps=4))],
    "sparsity": Sparsify(0.3, least=1),
    "factors": Factorize(remove=0.2),
}
PRECISIONS = {torch.float64: 0.0, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def network(dtype: torch.dtype) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layers = [nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)]
    return nn.Sequential(*layers).to(dtype).eval(), torch.randn(64, 32).to(dtype)


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("passes", PASSES.values(), ids=PASSES)
def test_a_pass_gives_what_it_gives_in_float32(passes: object, dtype: torch.dtype) -> None:
    net, x = network(dtype)
    single, y = network(torch.float32)
    found, wanted = (
        rg.compile(m, (v,), passes=passes, calibration=[(v,)] * 4, target="torch", measure=False)(v)  # type: ignore[arg-type]
        for m, v in ((net, x), (single.to(dtype).float(), y.to(dtype).float()))
    )
    assert found.dtype == dtype
    error = float((found.float() - wanted).norm() / wanted.norm())
    assert error < 0.03 + 4 * PRECISIONS[dtype]


def test_a_cpu_without_kernels_for_a_precision_is_named() -> None:
    net, x = network(torch.bfloat16)
    with pytest.raises(TargetError, match="in bfloat16, which ONNX Runtime") as caught:
        rg.compile(net, (x,), passes="exact")
    assert "model.float()" in str(caught.value)


def test_learning_of_codes_needs_more_digits() -> None:
    steps = Reconstruct("static", fitter=Fitter(steps=4), end_to_end=Fitter(steps=2))
    net, x = network(torch.float64)
    art = rg.compile(net, (x,), passes=steps, calibration=[(x,)] * 4, target="torch")
    assert art.report.errors[0].relative_l2 < 0.03
    for dtype in (torch.float16, torch.bfloat16):
        net, x = network(dtype)
        with pytest.raises(InputError, match="steps as small as learning takes are lost"):
            rg.compile(net, (x,), passes=steps, calibration=[(x,)] * 4, target="torch")
