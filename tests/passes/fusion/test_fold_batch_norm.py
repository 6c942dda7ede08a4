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
NORMED = ("r: {t} = relu(c)", "n: {t} = {r}")


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
            "c is also read by y; y (add) reads it: it takes up no scale",
            id="the convolution has a second reader",
        ),
        pytest.param(
            [*NORMED, "y: {t} = neg(n)"],
            "r (relu) comes before it, and no weights to fold it into; y (neg) reads it: it takes "
            "up no scale",
            id="a relu in between",
        ),
        pytest.param(
            [*NORMED, "y: f64[2, 8, 6, 6] = conv2d(n, k, padding=(2, 2))"],
            "r (relu) comes before it, and no weights to fold it into; y (conv2d) reads it: it "
            "pads with zeros, which the batch norm would shift",
            id="padding behind it",
        ),
        pytest.param(
            [
                *NORMED,
                "p: f64[2, 8, 2, 2] = conv2d(n, k)",
                "q: f64[2, 8, 2, 2] = conv2d(r, k)",
                "y: f64[2, 8, 2, 2] = add(p, q)",
            ],
            "r (relu) comes before it, and no weights to fold it into; p (conv2d) reads it: "
            "others share its weight",
            id="a weight with another reader",
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
        *(["k: f64[8, 8, 3, 3],"] if any(" k" in line for line in body) else []),
        *(f"{name}: f64[8]," for name in "bstmv"),
    ]
    text = "\n    ".join(["def graph(", *head]) + "\n):\n    "
    text += "\n    ".join([f"c: {type_} = conv2d(x, w, b)", *lines, "return y"])
    (remark,) = check_pass(FoldBatchNorm(), before=text)
    assert remark.text == reason and not remark.applied


def test_folds_forward_into_all_that_reads_it() -> None:
    """Two in a row, read by a convolution in groups and one without padding beside it."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.Sequential(nn.BatchNorm2d(6), nn.BatchNorm2d(6))
            self.grouped = nn.Conv2d(6, 4, 3, groups=2, bias=False)
            self.plain = nn.Conv2d(6, 4, 3, stride=2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.norms(x.relu())
            return self.grouped(x), self.plain(x)

    check_forward(Net(), torch.randn(2, 6, 7, 7), left=["relu", "conv2d", "conv2d"])


def test_folds_forward_into_linear_layers_of_a_table() -> None:
    check_forward(
        nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)), torch.randn(5, 6), left=["linear"]
    )


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        pytest.param(
            [nn.Conv2d(4, 5, 3), nn.BatchNorm1d(5)], "are not those of conv2d", id="behind it"
        ),
        pytest.param([nn.BatchNorm1d(7), nn.Conv2d(4, 5, 3)], "another axis", id="before it"),
    ],
)
def test_leaves_a_convolution_without_a_batch(layers: list[nn.Module], reason: str) -> None:
    """Its channels lie on axis 0, the norm's on axis 1, which here has as many."""
    graph = rg.trace(nn.Sequential(*layers).eval(), (torch.randn(4, 7, 7),))
    with pytest.raises(rg.SiteError, match=reason):
        FoldBatchNorm()(graph)


def test_one_that_only_scales_goes_behind_padding() -> None:
    norm = nn.BatchNorm2d(4, affine=False)
    net = nn.Sequential(nn.ReLU(), norm, nn.Conv2d(4, 4, 3, padding=1))
    check_forward(net, torch.randn(2, 4, 5, 5), left=["relu", "conv2d"], shifts=False)


def check_forward(net: nn.Module, x: torch.Tensor, left: list[str], *, shifts: bool = True) -> None:
    torch.manual_seed(0)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            kept = [norm.running_var, *([norm.running_mean] if shifts else []), *norm.parameters()]
            for tensor in kept:
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 2.0)
    graph = astype(rg.trace(net.eval(), (x,)), torch.float64)
    folded, remarks = FoldBatchNorm()(graph)
    assert all(remark.applied for remark in remarks)
    assert [node.op for node in folded.nodes if node.op != "getitem"] == left
    found, wanted = (execute(g, [x.double()]) for g in (folded, graph))
    assert difference(found, wanted) < 1e-14
