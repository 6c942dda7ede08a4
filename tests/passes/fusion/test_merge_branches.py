"""Branches over one value become one map; what would cost, or is no such map, is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from regauge.backends.profiles import target
from regauge.frontend import trace
from regauge.ir import Graph, parse
from regauge.ir.interpret import execute
from regauge.passes import Context, FoldBatchNorm, MergeBranches, Remark, apply
from regauge.passes.manager import EXACT_TOLERANCE, difference

C = 8


class Sum(nn.Module):
    """The sum of branches over one value, and of the value itself if asked for."""

    def __init__(self, *branches: nn.Module, shortcut: float = 0.0) -> None:
        super().__init__()
        self.branches, self.shortcut = nn.ModuleList(branches), shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        return torch.relu(total + self.shortcut * x if self.shortcut else total)


class Scaled(nn.Module):
    """A branch with a constant factor for each channel."""

    def __init__(self, inner: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.inner, self.factor = inner, nn.Parameter(torch.randn(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.factor


def conv(
    kernel: int | tuple[int, int], padding: int | tuple[int, int] | str = 0, **options: object
) -> nn.Module:
    return nn.Conv2d(C, C, kernel, padding=padding, **options)  # type: ignore[arg-type]


def normed(kernel: int, padding: int, **options: object) -> nn.Module:
    return nn.Sequential(conv(kernel, padding, bias=False, **options), nn.BatchNorm2d(C))


def merged(model: nn.Module, x: torch.Tensor) -> tuple[Graph, list[Remark]]:
    """What becomes of a model with random numbers everywhere; equal in float64 and on ONNX."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.1)
    graph = trace(model.eval(), (x,))
    new, reports = apply(graph, [FoldBatchNorm(), MergeBranches()], Context(inputs=[x]))
    assert reports[1].damage < EXACT_TOLERANCE
    assert difference(target("onnxruntime").lower(new)([x]), execute(graph, [x])) < 1e-5
    return new, reports[1].remarks


IMAGE = torch.randn(2, C, 9, 9)
ROWS = torch.randn(2, 3, C)


@pytest.mark.parametrize(
    ("model", "x"),
    [
        pytest.param(
            Sum(normed(3, 1), normed(1, 0), nn.BatchNorm2d(C)), IMAGE, id="a block of RepVGG"
        ),
        pytest.param(
            Sum(normed(3, 1, stride=2), normed(1, 0, stride=2)), IMAGE, id="one with a stride"
        ),
        pytest.param(
            Sum(normed(3, 1, groups=4), normed(1, 0, groups=4), shortcut=0.5),
            IMAGE,
            id="channels in groups",
        ),
        pytest.param(Sum(conv(3, 1, groups=C), shortcut=1.0), IMAGE, id="each channel by itself"),
        pytest.param(
            Sum(conv(3, 1), conv((1, 3), (0, 1)), conv((3, 1), (1, 0))), IMAGE, id="a cross"
        ),
        pytest.param(
            Sum(conv(3, 2, dilation=2), conv(1)), IMAGE, id="a kernel with gaps, and a point"
        ),
        pytest.param(
            Sum(conv(5, "same"), conv(3, "same"), shortcut=1.0), IMAGE, id="paddings by a name"
        ),
        pytest.param(
            Sum(conv(3, 1), Scaled(conv(1), (C, 1, 1)), shortcut=-2.0), IMAGE, id="factors"
        ),
        pytest.param(
            Sum(nn.Conv1d(C, C, 3, padding=1), nn.Conv1d(C, C, 1), shortcut=1.0),
            torch.randn(2, C, 5),
            id="one axis",
        ),
        pytest.param(
            Sum(nn.Linear(C, C), nn.Linear(C, C, bias=False), shortcut=1.0), ROWS, id="linear"
        ),
        pytest.param(Sum(nn.Linear(C, C), Scaled(nn.Identity(), (C,))), ROWS, id="a diagonal"),
        pytest.param(Sum(nn.Linear(C, C), nn.BatchNorm1d(C)), ROWS[0], id="a norm of rows"),
    ],
)
def test_branches_become_one(model: nn.Module, x: torch.Tensor) -> None:
    graph, remarks = merged(model, x)
    assert len(graph.nodes) == 2, str(graph)  # with the relu
    assert all(remark.applied for remark in remarks)


def unchanged(printed: str) -> str:
    """The graph without the operands that a case makes no use of."""
    graph = parse(printed)
    graph.prune()
    return str(graph)


def test_two_values_have_one_map_each(check_pass: Callable[..., list[Remark]]) -> None:
    remarks = check_pass(
        MergeBranches(),
        before="""
            def graph(
                x: f64[2, 4], z: f64[2, 4], *, a: f64[4, 4], k: f64[4], b: f64[4, 4],
                c: f64[4, 4], d: f64[4]
            ):
                p: f64[2, 4] = linear(x, a, k)
                q: f64[2, 4] = linear(z, b)
                r: f64[2, 4] = linear(x, c)
                s: f64[2, 4] = add(p, q)
                t: f64[2, 4] = sub(s, r)
                u: f64[2, 4] = add(t, z, alpha=3)
                y: f64[2, 4] = add(u, d)
                return y
            """,
        after="""
            def graph(x: f64[2, 4], z: f64[2, 4], *, a: f64[4, 4], k: f64[4], b: f64[4, 4]):
                p_merged: f64[2, 4] = linear(x, a, k)
                q_merged: f64[2, 4] = linear(z, b)
                y: f64[2, 4] = add(q_merged, p_merged)
                return y
            """,
    )
    assert [remark.text for remark in remarks] == [
        "p, r, d are one linear",
        "q, z are one linear",
    ]


def test_a_constant_factor_goes_into_the_weights(check_pass: Callable[..., list[Remark]]) -> None:
    (remark,) = check_pass(
        MergeBranches(),
        before="""
            def graph(x: f64[2, 4], *, w: f64[6, 4], b: f64[6], g: f64[6]):
                p: f64[2, 6] = linear(x, w, b)
                y: f64[2, 6] = mul(g, p)
                return y
            """,
        after="""
            def graph(x: f64[2, 4], *, w: f64[6, 4], b: f64[6]):
                y: f64[2, 6] = linear(x, w, b)
                return y
            """,
    )
    assert remark.text == "the weights of p took up its factor"


def convs(
    one: str,
    other: str,
    *,
    a: str = "4, 4, 3, 3",
    b: str = "4, 4, 1, 1",
    size: int = 9,
    result: int = 9,
    last: str = "add(p, q)",
    activated: str = "",
    returned: str = "y",
) -> str:
    """Two convolutions, perhaps a value with an activation, and what is made of them."""
    type_ = f"f64[2, 4, {result}, {result}]"
    r = f"r: {type_} = relu({activated})" if activated else ""
    return f"""
        def graph(x: f64[2, 4, {size}, {size}], v: f64[4, 4, 1, 1], *, a: f64[{a}], b: f64[{b}],
                  g: f64[4, 1, 9]):
            p: {type_} = conv2d({one})
            {r}
            q: {type_} = conv2d({other})
            y: {type_} = {last}
            return {returned}
        """


SAME = "x, a, padding=(1, 1)"


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        pytest.param(
            convs(SAME, "x, b", activated="p", last="add(r, q)"), [], id="something between"
        ),
        pytest.param(convs(SAME, "r, b", activated="x"), [], id="another value"),
        pytest.param(convs(SAME, "x, v"), [], id="weights that are computed"),
        pytest.param(convs(SAME, "x, b", last="add(p, g)"), [], id="a constant for each place"),
        pytest.param(
            convs(SAME, "x, b", activated="p", returned="y, r"),
            ["it stays beside q: p is also read by r"],
            id="the greater branch has another reader",
        ),
        pytest.param(
            convs("x, a, padding=(2, 2), dilation=(2, 2)", "x, b, padding=(3, 3), dilation=(3, 3)",
                  b="4, 4, 3, 3"),
            ["it stays beside p: their dilations are 2 and 3"],
            id="dilations",
        ),
        pytest.param(
            convs("x, a, padding=(2, 2), dilation=(2, 2)", "x, b, padding=(1, 1), dilation=(2, 2)",
                  b="4, 4, 2, 2"),
            ["it stays beside p: paddings of 2 and 1 cannot be made equal"],
            id="paddings between the positions of a kernel",
        ),
        pytest.param(
            convs("x, a, padding=(1, 1), stride=(2, 2)", "x, b, padding=(1, 1), stride=(3, 3)",
                  b="4, 4, 3, 3", size=2, result=1),
            ["it stays beside p: their strides are 2 and 3"],
            id="strides",
        ),
        pytest.param(
            convs("x, a", "x, b, padding='same'", a="4, 4, 1, 1", b="4, 4, 2, 2"),
            ["it stays beside q: the padding would be 0 before and 1 behind"],
            id="a padding on one side",
        ),
        pytest.param(
            convs("x, a, padding=(1, 0)", "x, b, padding=(0, 1)", a="4, 4, 3, 1", b="4, 4, 1, 3"),
            ["it stays beside p: together they have 144 weights, apart 96"],
            id="a cross with holes",
        ),
        pytest.param(
            convs(SAME, "x, b, groups=2", b="4, 2, 1, 1"),
            ["it stays beside p: their channels fall into 1 and 2 groups"],
            id="groups",
        ),
    ],
)  # fmt: skip
def test_leaves_alone(
    check_pass: Callable[..., list[Remark]], text: str, reasons: list[str]
) -> None:
    remarks = check_pass(MergeBranches(), before=text, after=unchanged)
    assert [remark.text for remark in remarks if not remark.applied] == reasons


def test_padding_by_reflection_makes_another_value() -> None:
    model = Sum(conv(3, 1, padding_mode="reflect"), conv(1))
    graph, remarks = merged(model, IMAGE)
    assert [node.op for node in graph.nodes].count("conv2d") == 2 and not remarks


TIED = """
    def graph(x: f64[2, 4], z: f64[2, 4], *, w: f64[4, 4]):
        p: f64[2, 4] = linear(x, w)
        s: f64[2, 4] = add(x, p)
        q: f64[2, 4] = linear(z, w)
        y: f64[2, 4] = mul(s, q)
        return y
    """


def test_does_not_break_a_tie_unless_told_to(check_pass: Callable[..., list[Remark]]) -> None:
    (remark,) = check_pass(MergeBranches(), before=TIED, after=unchanged)
    assert remark.text == "it would break the tie of w, at a cost of 128 bytes"
    (remark,) = check_pass(
        MergeBranches(untie=True),
        before=TIED,
        after="""
            def graph(x: f64[2, 4], z: f64[2, 4], *, w: f64[4, 4], w_1: f64[4, 4]):
                s: f64[2, 4] = linear(x, w_1)
                q: f64[2, 4] = linear(z, w)
                y: f64[2, 4] = mul(s, q)
                return y
            """,
    )
    assert remark.text == "p, x are one linear"
