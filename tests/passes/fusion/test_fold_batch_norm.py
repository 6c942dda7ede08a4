from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import regauge as rg
from regauge.ir import astype
from regauge.ir.interpret import execute
from regauge.passes import Remark
from regauge.passes.fusion.fold_batch_norm import FoldBatchNorm
from regauge.passes.manager import difference

WEIGHTS = "w: f64[8, 4, 3, 3], b: f64[8], s: f64[8], t: f64[8], m: f64[8], v: f64[8]"
HEAD = f"x: f64[2, 4, 6, 6], *, {WEIGHTS}"
NORM = "batch_norm({}, s, t, m, v, training=False, momentum=0.1, eps=1e-05, cudnn_enabled=False)"
type_ = "f64[2, 8, 4, 4]"


def test_folds_into_the_convolution_before_it(check_pass: Callable[..., list[Remark]]) -> None:
    (remark,) = check_pass(
        FoldBatchNorm(),
        before=f"""
            def graph({HEAD}):
                c: {type_} = conv2d(x, w, b)
                n: {type_} = {NORM.format("c")}
                y: {type_} = relu(n)
                return y
            """,
        after="""
            def graph(x: f64[2, 4, 6, 6], *, w: f64[8, 4, 3, 3], b: f64[8]):
                c: f64[2, 8, 4, 4] = conv2d(x, w, b)
                y: f64[2, 8, 4, 4] = relu(c)
                return y
            """,
    )
    assert str(remark) == "applied c: took up n"


@pytest.mark.parametrize("groups", [1, 2])
def test_folds_into_a_transposed_convolution(groups: int) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        assert tensor is not None
        nn.init.uniform_(tensor, 0.5, 2.0)
    up = nn.ConvTranspose2d(4, 6, 3, 2, output_padding=1, groups=groups)
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    graph = astype(rg.trace(nn.Sequential(up, norm).eval(), (x.float(),)), torch.float64)
    folded, (remark,) = FoldBatchNorm()(graph)
    assert remark.applied and [node.op for node in folded.nodes] == ["conv_transpose2d"]
    assert difference(execute(folded, [x]), execute(graph, [x])) < 1e-14


def test_folds_two_in_a_row(check_pass: Callable[..., list[Remark]]) -> None:
    check_pass(
        FoldBatchNorm(),
        before=f"""
            def graph(
                {HEAD.replace("b: f64[8], ", "").replace("*", "*,").replace(",,", ",")},
            ):
                c: {type_} = conv2d(x, w)
                n: {type_} = {NORM.format("c")}
                k: {type_} = {NORM.format("n")}
                return k
            """,
        after="""
            def graph(x: f64[2, 4, 6, 6], *, w: f64[8, 4, 3, 3], c_bias: f64[8]):
                c: f64[2, 8, 4, 4] = conv2d(x, w, c_bias)
                return c
            """,
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(
            ["n: {t} = {n}", "y: {t} = add(n, c)"],
            "c is also read by y",
            id="the convolution has a second reader",
        ),
        pytest.param(
            ["r: {t} = relu(c)", "y: {t} = {r}"],
            "r (relu) comes before it, and no weights to fold it into",
            id="a relu in between",
        ),
    ],
)
def test_leaves_alone(
    check_pass: Callable[..., list[Remark]], body: list[str], reason: str
) -> None:
    lines = [line.format(t=type_, n=NORM.format("c"), r=NORM.format("r")) for line in body]
    head = [
        "x: f64[2, 4, 6, 6],",
        "*,",
        "w: f64[8, 4, 3, 3],",
        *(f"{name}: f64[8]," for name in "bstmv"),
    ]
    text = "\n    ".join(["def graph(", *head]) + "\n):\n    "
    text += "\n    ".join([f"c: {type_} = conv2d(x, w, b)", *lines, "return y"])
    (remark,) = check_pass(FoldBatchNorm(), before=text)
    assert remark.text == reason and not remark.applied
