"""Dead channels: found, left out, and what looks like one and is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from graphs import GROUPED, filled
from small_models import ZooModel
from torch import nn

import regauge as rg
from regauge.ir import Graph, parse
from regauge.ir.interpret import execute
from regauge.passes import Context, DropDead, FoldBatchNorm, Remark
from regauge.passes.manager import EXACT_TOLERANCE, apply, difference

GATED = """
def graph(x: f64[5, 6], *, g: f64[8, 6], u: f64[8, 6], c: f64[8], d: f64[3, 8]{more}):
    a: f64[5, 8] = linear(x, g, c)
    s: f64[5, 8] = {act}(a)
    b: f64[5, 8] = linear(x, u)
    h: f64[5, 8] = mul(s, b)
    y: f64[5, 3] = linear(h, d)
    {tail}
"""
PLAIN = """
def graph(x: f64[5, 6], *, w: f64[8, 6], c: f64[8], d: f64[3, 8]):
    a: f64[5, 8] = linear(x, w, c)
    h: f64[5, 8] = {act}(a)
    y: f64[5, 3] = linear(h, d)
    return y
"""


def dropped(graph: Graph, inputs: list[torch.Tensor]) -> tuple[Graph, list[Remark]]:
    """What is left, which computes the same."""
    found, remarks = DropDead().attempt(graph, Context(inputs=inputs))
    assert difference(execute(found, inputs), execute(graph, inputs)) < EXACT_TOLERANCE
    return found, remarks


def zero(graph: Graph, name: str, *rows: int, axis: int = 0) -> None:
    value = graph.store[name].clone()
    value.index_fill_(axis, torch.tensor(rows), 0.0)
    graph.store[name] = value


def gated(
    act: str = "silu", more: str = "", tail: str = "return y"
) -> tuple[Graph, list[torch.Tensor]]:
    return filled(GATED.format(act=act, more=more, tail=tail))


def test_what_nobody_reads() -> None:
    graph, inputs = gated()
    zero(graph, "d", 1, 4, axis=1)
    found, (remark,) = dropped(graph, inputs)
    assert "2 of 8 hidden are dead" in remark.text
    assert {n: list(found.params[n].shape) for n in "gucd"} == {
        "g": [6, 6], "u": [6, 6], "c": [6], "d": [3, 6]
    }  # fmt: skip


def test_what_is_always_zero() -> None:
    graph, inputs = gated()
    zero(graph, "u", 2)
    zero(graph, "g", 5)
    zero(graph, "c", 5)
    zero(graph, "g", 6)  # its gate is a constant, and what that gates is not
    found, _ = dropped(graph, inputs)
    assert list(found.params["d"].shape) == [3, 6]


def test_a_product_with_an_unknown_factor_is_zero_only_where_the_other_is() -> None:
    graph, inputs = gated("sigmoid")
    zero(graph, "g", 5)
    zero(graph, "c", 5)  # sigmoid(0) is a half
    assert dropped(graph, inputs)[1] == []


@pytest.mark.parametrize("act", ["relu", "gelu", "sigmoid", "tanh"])
def test_a_constant_goes_into_the_bias_behind(act: str) -> None:
    graph, inputs = filled(PLAIN.format(act=act))
    graph.store["c"] = graph.store["c"].abs()
    zero(graph, "w", 0, 3)
    found, _ = dropped(graph, inputs)
    assert list(found.params["w"].shape) == [6, 6]
    assert found["y"].operand(2) is not None


def test_a_convolution_whose_norm_has_learned_zeros() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1),
    ).eval()  # fmt: skip
    for index, gone in ((4, [1, 2]), (7, [0, 5, 6])):
        norm = model[index]
        assert isinstance(norm, nn.BatchNorm2d) and norm.weight is not None
        nn.init.normal_(norm.bias)
        with torch.no_grad():
            norm.weight[gone] = 0.0
            norm.bias[[5, 6]] = -1.0  # behind the activation there is nothing
            norm.bias[[0, 1, 2]] = 1.0  # a constant, which the last convolution pads with zeros
    x = torch.randn(2, 3, 9, 9)
    graph = rg.trace(model, (x,))
    found, reports = apply(graph, [FoldBatchNorm(), DropDead()], Context(inputs=[x]))
    assert reports[1].damage < EXACT_TOLERANCE
    channels = [list(node.shape)[1] for node in found.nodes if node.op == "conv2d"]
    assert channels == [6, 6, 6, 4]


def test_heads_that_give_nothing() -> None:
    graph, inputs = filled(GROUPED)
    zero(graph, "wv", 0, 1, 2)  # a head of values, which two of queries share
    zero(graph, "wo", 8, axis=1)  # a channel of another, not all of it
    found, remarks = dropped(graph, inputs)
    assert any("1 of 2 heads are dead" in remark.text for remark in remarks)
    assert list(found.params["wq"].shape) == [6, 8] and list(found.params["wo"].shape) == [8, 6]


def test_products_of_queries_and_keys() -> None:
    graph, inputs = filled(GROUPED)
    zero(graph, "wq", *range(1, 12, 3))
    zero(graph, "wk", 2, 5)
    found, _ = dropped(graph, inputs)
    assert list(found.params["wq"].shape) == [4, 8] and list(found.params["wk"].shape) == [2, 8]


def test_one_that_goes_lets_another_go() -> None:
    graph, inputs = filled(
        """
        def graph(x: f64[5, 6], *, a: f64[8, 6], b: f64[7, 8], c: f64[3, 7]):
            p: f64[5, 8] = linear(x, a)
            q: f64[5, 8] = relu(p)
            r: f64[5, 7] = linear(q, b)
            s: f64[5, 7] = relu(r)
            y: f64[5, 3] = linear(s, c)
            return y
        """
    )
    zero(graph, "c", 2, axis=1)
    b = graph.store["b"].clone()
    b[[0, 1, 3, 4, 5, 6], 5] = 0.0  # the sixth channel is read by the third alone
    graph.store["b"] = b
    found, _ = dropped(graph, inputs)
    assert list(found.params["b"].shape) == [6, 7]


@pytest.mark.parametrize(
    ("tail", "more"),
    [
        ("return y, h", ""),
        ("z: f64[5, 8] = softmax(h, dim=-1)\n    return y, z", ""),
        ("z: f64[5] = amax(h, dim=(-1,))\n    return y, z", ""),
        ("z: f64[5, 8] = layer_norm(h, normalized_shape=(8,), eps=1e-5)\n"
         "    v: f64[5, 3] = linear(z, e)\n    return y, v", ", e: f64[3, 8]"),
    ],
    ids=["output", "softmax", "maximum", "norm"],
)  # fmt: skip
def test_who_counts_channels_keeps_them(tail: str, more: str) -> None:
    graph, inputs = gated("silu", more, tail)
    zero(graph, "u", 2)
    zero(graph, "d", 2, axis=1)
    found, _ = dropped(graph, inputs)
    assert list(found.params["u"].shape) == [8, 6]


def test_a_root_mean_square_may_lose_zeros_and_nothing_else() -> None:
    tail = """z: f64[5, 8] = rms_norm(h, e, normalized_shape=(8,), eps=1e-5)
    v: f64[5, 3] = linear(z, d)
    return v"""
    graph, inputs = gated("silu", ", e: f64[8]", tail)
    graph.prune()
    zero(graph, "u", 2)
    zero(graph, "d", 4, axis=1)
    found, _ = dropped(graph, inputs)
    assert list(found.params["u"].shape) == [7, 6]


SUMMED = {
    "linear": """
        def graph(z: f64[5, 6], *, v: f64[8, 6], w: f64[8, 8], d: f64[3, 8]):
            x: f64[5, 8] = linear(z, v)
            a: f64[5, 8] = linear(x, w)
            h: f64[5, 8] = add(x, a)
            y: f64[5, 3] = linear(h, d)
            return y
        """,
    "convolution": """
        def graph(z: f64[2, 6, 5, 5], *, v: f64[8, 6, 1, 1], w: f64[8, 8, 3, 3],
                  d: f64[3, 8, 1, 1]):
            x: f64[2, 8, 5, 5] = conv2d(z, v)
            a: f64[2, 8, 5, 5] = conv2d(x, w, padding=(1, 1))
            h: f64[2, 8, 5, 5] = add(x, a)
            y: f64[2, 3, 5, 5] = conv2d(h, d)
            return y
        """,
    "groups": """
        def graph(z: f64[2, 6, 5, 5], *, v: f64[8, 6, 1, 1], w: f64[8, 4, 3, 3],
                  d: f64[3, 8, 1, 1]):
            x: f64[2, 8, 5, 5] = conv2d(z, v)
            a: f64[2, 8, 5, 5] = conv2d(x, w, padding=(1, 1), groups=2)
            h: f64[2, 8, 5, 5] = add(x, a)
            y: f64[2, 3, 5, 5] = conv2d(h, d)
            return y
        """,
    "attention": """
        def graph(x: f64[2, 5, 8], *, v: f64[8, 8], w: f64[8, 8], d: f64[3, 8]):
            q: f64[2, 5, 8] = linear(x, v)
            qh: f64[2, 1, 5, 8] = unsqueeze(q, dim=1)
            k: f64[2, 5, 8] = linear(x, w)
            kh: f64[2, 1, 5, 8] = unsqueeze(k, dim=1)
            a: f64[2, 1, 5, 8] = scaled_dot_product_attention(qh, kh, kh)
            y: f64[2, 1, 5, 3] = linear(a, d)
            return y
        """,
}  # fmt: skip


@pytest.mark.parametrize("text", SUMMED.values(), ids=SUMMED.keys())
def test_what_sums_channels_into_the_same_channels_keeps_them(text: str) -> None:
    graph, inputs = filled(text)
    zero(graph, "d", 2, 6, axis=1)
    assert not [remark for remark in dropped(graph, inputs)[1] if remark.applied]


MASKED = """
def graph(x: f64[2, 5, 8], *, wq: f64[6, 8], wk: f64[6, 8], wv: f64[6, 8], bv: f64[6],
          wo: f64[8, 6], m: TYPE[5, 5]):
    q: f64[2, 5, 6] = linear(x, wq)
    qh: f64[2, 1, 5, 6] = unsqueeze(q, dim=1)
    k: f64[2, 5, 6] = linear(x, wk)
    kh: f64[2, 1, 5, 6] = unsqueeze(k, dim=1)
    v: f64[2, 5, 6] = linear(x, wv, bv)
    vh: f64[2, 1, 5, 6] = unsqueeze(v, dim=1)
    a: f64[2, 1, 5, 6] = scaled_dot_product_attention(qh, kh, vh, m)
    y: f64[2, 1, 5, 8] = linear(a, wo)
    return y
"""


@pytest.mark.parametrize("kind", ["bool", "f64", "computed"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_row_of_an_attention_that_sees_nothing_is_zero_and_not_the_constant(
    kind: str, empty: bool
) -> None:
    text = MASKED.replace("TYPE", "f64" if kind == "f64" else "bool")
    if kind == "computed":
        text = text.replace("    a:", "    n: bool[5, 5] = logical_not(m)\n    a:")
        text = text.replace("vh, m)", "vh, n)")
    graph, random = parse(text), torch.Generator().manual_seed(1)
    seen = torch.ones(5, 5, dtype=torch.bool).tril()
    seen[3] &= not empty
    mask = torch.zeros(5, 5, dtype=torch.float64).masked_fill(~seen, -torch.inf)
    for name, param in list(graph.params.items())[:-1]:
        shape = [int(size) for size in param.shape]
        graph.store[name] = torch.randn(shape, generator=random, dtype=torch.float64)
    graph.store["m"] = {"bool": seen, "f64": mask, "computed": ~seen}[kind]
    inputs = [torch.randn(2, 5, 8, generator=random, dtype=torch.float64)]
    zero(graph, "wv", 1, 4)
    found, remarks = dropped(graph, inputs)
    goes = not empty and kind != "computed"  # of a mask that is computed, nothing is known
    assert [remark.applied for remark in remarks] == ([True] if goes else [])
    assert found.params["wo"].shape[1] == (4 if goes else 6)


def test_a_convolution_of_each_channel_by_itself_sums_none() -> None:
    text = SUMMED["groups"].replace("8, 4, 3, 3", "8, 1, 3, 3").replace("groups=2", "groups=8")
    graph, inputs = filled(text)
    zero(graph, "d", 2, 6, axis=1)
    found, _ = dropped(graph, inputs)
    assert list(found.params["w"].shape) == [6, 1, 3, 3]


JOINED = """
def graph(x: f64[2, 4, 6], *, w: f64[8, 6], t: f64[2, 1, 8], d: f64[3, 8]):
    a: f64[2, 4, 8] = linear(x, w)
    h: f64[2, 5, 8] = cat((t, a), dim=1)
    y: f64[2, 5, 3] = linear(h, d)
    return y
"""


def test_a_stored_row_beside_the_data_counts() -> None:
    graph, inputs = filled(JOINED)
    zero(graph, "w", 2, 5)
    assert dropped(graph, inputs)[1] == []
    zero(graph, "t", 2, axis=2)
    found, _ = dropped(graph, inputs)
    assert list(found.params["w"].shape) == [7, 6] and list(found.params["t"].shape) == [2, 1, 7]


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("i: bool[5, 8] = to(a, dtype=bool)\n    n: bool[5, 8] = bitwise_not(i)\n"
         "    h: f64[5, 8] = to(n, dtype=f64)", 7),
        ("h: f64[5, 8] = reciprocal(a)", 8),
        ("h: f64[5, 8] = exp(a)\n    b: f64[3] = mul(f, 2.0)", 8),
    ],
    ids=["truths", "infinite", "computed bias"],
)  # fmt: skip
def test_what_a_constant_becomes(body: str, left: int) -> None:
    bias, more = (", b", ", f: f64[3]") if "b: f64" in body else ("", "")
    graph, inputs = filled(
        f"""
def graph(x: f64[5, 6], *, w: f64[8, 6], d: f64[3, 8]{more}):
    a: f64[5, 8] = linear(x, w)
    {body}
    y: f64[5, 3] = linear(h, d{bias})
    return y
"""
    )
    zero(graph, "w", 2)
    found, _ = dropped(graph, inputs)
    assert list(found.params["w"].shape) == [left, 6]


def test_imaginary_weights_are_no_zeros() -> None:
    graph, inputs = filled(
        """
        def graph(r: f64[5, 6], *, w: f64[8, 6], d: c128[3, 8]):
            a: f64[5, 8] = linear(r, w)
            h: c128[5, 8] = to(a, dtype=c128)
            y: c128[5, 3] = linear(h, d)
            return y
        """
    )
    graph.store["d"] = torch.complex(torch.zeros(3, 8).double(), graph.store["d"].real)
    assert dropped(graph, inputs)[1] == []


def test_where_all_are_dead_none_goes() -> None:
    graph, inputs = gated()
    graph.store["d"] = torch.zeros_like(graph.store["d"])
    found, (remark,) = dropped(graph, inputs)
    assert not remark.applied and "all of its channels are dead" in remark.text
    assert str(found) == str(graph)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "vit", "convnext"])
def test_a_whole_model_has_none(family: str, zoo_model: Callable[[str], ZooModel]) -> None:
    zoo = zoo_model(family)
    graph = rg.trace(zoo.model, zoo.args, zoo.kwargs)
    assert not [remark for remark in DropDead().attempt(graph)[1] if remark.applied]
