"""Linear maps in a row become one where that has no more weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from regauge.backends.profiles import target
from regauge.frontend import trace
from regauge.ir.interpret import execute
from regauge.passes import Context, MergeChains, Remark, apply
from regauge.passes.manager import EXACT_TOLERANCE, difference


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        pytest.param([nn.Linear(6, 8), nn.Linear(8, 5)], (2, 3, 6), id="linear"),
        pytest.param(
            [nn.Linear(6, 8, bias=False), nn.Linear(8, 8), nn.Linear(8, 5, bias=False)],
            (2, 6),
            id="three",
        ),
        pytest.param(
            [nn.Conv2d(6, 16, 1), nn.Conv2d(16, 5, 3, stride=2)], (2, 6, 9, 9), id="a point before"
        ),
        pytest.param(
            [nn.Conv2d(6, 16, 1, bias=False), nn.Conv2d(16, 5, 3, padding=2, dilation=2)],
            (2, 6, 9, 9),
            id="with a padding",
        ),
        pytest.param(
            [nn.Conv1d(6, 16, 3, stride=2, padding=1), nn.Conv1d(16, 5, 1)], (2, 6, 9),
            id="a point behind",
        ),
    ],
)  # fmt: skip
def test_a_row_becomes_one(layers: list[nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    graph = trace(nn.Sequential(*layers).eval(), (x,))
    new, (report, _) = apply(graph, [MergeChains()], Context(inputs=[x]))
    assert report.damage < EXACT_TOLERANCE and len(report.applied) == len(layers) - 1
    assert len(new.nodes) == 1 and new.store.bytes() < graph.store.bytes()
    assert difference(target("onnxruntime").lower(new)([x]), execute(graph, [x])) < 1e-5


TWO = """
    def graph(x: f64[2, 4], *, v: f64[{hidden}, 4], w: f64[4, {hidden}]):
        p: f64[2, {hidden}] = linear(x, v)
        q: f64[2, 4] = linear({read}, w)
        {tail}
    """
CONVS = """
    def graph(x: f64[2, 4, 6, 6], *, v: f64[9, 4, {first}], b: f64[9], w: f64[4, 9, 3, 3]):
        p: f64[2, 9, 6, 6] = conv2d(x, v, b{options})
        q: f64[2, 4, 6, 6] = conv2d(p, w, padding=(1, 1))
        return q
    """


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(
            TWO.format(hidden=1, read="p", tail="return q"),
            "it stays behind p: together they have 16 weights, apart 8",
            id="a bottleneck",
        ),
        pytest.param(
            TWO.format(hidden=4, read="p", tail="y: f64[2, 4] = mul(p, q)\n        return y"),
            "it stays behind p: p is also read by y",
            id="another reader",
        ),
        pytest.param(
            TWO.format(hidden=4, read="p", tail="return q, p"),
            "it stays behind p: p is also read by output",
            id="an output",
        ),
        pytest.param(
            CONVS.format(first="1, 1", options=""),
            "it stays behind p: it pads with zeros what has a bias",
            id="a bias before a padding",
        ),
        pytest.param(
            CONVS.format(first="3, 3", options=", padding=(1, 1)"),
            "it stays behind p: both read several positions, or skip some",
            id="two kernels",
        ),
        pytest.param(
            """
            def graph(x: f64[2, 4], *, v: f64[4, 4], w: f64[4, 4]):
                p: f64[2, 4] = linear(x, v)
                q: f64[2, 4] = linear(p, w)
                r: f64[2, 4] = relu(q)
                s: f64[2, 4] = linear(r, v)
                t: f64[2, 4] = relu(s)
                y: f64[2, 4] = linear(t, w)
                return y
            """,
            "it stays behind p: it would break the tie of v, w, at a cost of 128 bytes",
            id="tied weights",
        ),
    ],
)
def test_leaves_alone(check_pass: Callable[..., list[Remark]], text: str, reason: str) -> None:
    (remark,) = check_pass(MergeChains(), before=text)
    assert remark.text == reason and not remark.applied


def test_something_between_keeps_them_apart(check_pass: Callable[..., list[Remark]]) -> None:
    text = TWO.format(hidden=4, read="r", tail="return q").replace(
        "q:", "r: f64[2, 4] = relu(p)\n        q:"
    )
    assert check_pass(MergeChains(), before=text) == []
