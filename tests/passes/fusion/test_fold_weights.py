from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import regauge as rg
from regauge.passes import Remark
from regauge.passes.fusion.fold_weights import FoldWeights

HEAD = "x: f64[2, 4, 6], *, v: f64[8, 4, 3], g: f64[8, 1, 1]"
NORMED = "k: f64[8, 4, 3] = _weight_norm(v, g, dim=0)"


def test_a_weight_norm_becomes_a_parameter(check_pass: Callable[..., list[Remark]]) -> None:
    (remark,) = check_pass(
        FoldWeights(),
        before=f"""
            def graph({HEAD}):
                {NORMED}
                y: f64[2, 8, 4] = conv1d(x, k)
                return y
            """,
        after="""
            def graph(x: f64[2, 4, 6], *, k: f64[8, 4, 3]):
                y: f64[2, 8, 4] = conv1d(x, k)
                return y
            """,
    )
    assert str(remark) == "applied y: its k is computed once, from g, v"


def test_slices_of_a_weight_become_parameters(check_pass: Callable[..., list[Remark]]) -> None:
    check_pass(
        FoldWeights(),
        before="""
            def graph(x: f64[2, 4], z: f64[2, 4], *, w: f64[6, 4]):
                a: f64[2, 4] = slice(w, dim=0, start=0, end=2)
                b: f64[4, 4] = slice(w, dim=0, start=2, end=6)
                p: f64[2, 2] = linear(x, a)
                q: f64[2, 4] = linear(z, b)
                return p, q
            """,
        after="""
            def graph(x: f64[2, 4], z: f64[2, 4], *, a: f64[2, 4], b: f64[4, 4]):
                p: f64[2, 2] = linear(x, a)
                q: f64[2, 4] = linear(z, b)
                return p, q
            """,
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(
            f"""
            def graph({HEAD}):
                {NORMED}
                y: f64[2, 8, 4] = conv1d(x, k)
                z: f64[8, 4, 3] = relu(v)
                return y, z
            """,
            "v is also read by z (relu)",
            id="something else reads it",
        ),
        pytest.param(
            """
            def graph(x: f64[2, 4], *, w: f64[6, 1], u: f64[1, 4]):
                k: f64[6, 4] = matmul(w, u)
                y: f64[2, 6] = linear(x, k)
                return y
            """,
            "it is larger than what it is computed from",
            id="a product of thin matrices",
        ),
    ],
)
def test_stays(text: str, reason: str, check_pass: Callable[..., list[Remark]]) -> None:
    (remark,) = check_pass(FoldWeights(), before=text)
    assert str(remark) == f"missed  k: {reason}"


def test_parametrized_layers_get_codes() -> None:
    torch.manual_seed(0)
    first, second = weight_norm(nn.Conv1d(8, 32, 5)), spectral_norm(nn.Linear(32, 64))
    net = nn.Sequential(first, nn.AdaptiveAvgPool1d(1), nn.Flatten(), second).eval()
    x = torch.randn(4, 8, 20)
    art = rg.compile(net, (x,), passes="w8", target="torch")
    ops = [node.op for node in art.graph.nodes]
    assert ops.count("dequantize") == 2 and "_weight_norm" not in ops
    assert art.report.errors[0].relative_l2 < 0.01
