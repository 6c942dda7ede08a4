"""Constant factors and paddings go into the weights and convolutions beside them."""

from __future__ import annotations

import pytest
import torch
from graphs import filled

from regauge.backends.onnxruntime import lower
from regauge.ir import Graph, astype
from regauge.ir.interpret import execute
from regauge.passes import Context, FoldPads, FoldScales, Pass, Remark
from regauge.passes.manager import EXACT_TOLERANCE, difference


def folded(step: Pass, text: str) -> tuple[Graph, list[Remark]]:
    """A graph after a pass, which computes the same."""
    graph, inputs = filled(text)
    for name, value in graph.store.items():
        graph.store[name] = value.abs() if name in ("g", "e") else value
    found, remarks = step.attempt(graph, Context(inputs=inputs))
    assert difference(execute(found, inputs), execute(graph, inputs)) < EXACT_TOLERANCE
    return found, remarks


SCALED = """
def graph(x: f64[2, 4, 6], *, v: f64[6, 6], w: f64[5, 6], c: f64[5], u: f64[3, 6], g: f64[6],
          h: f64[4, 1], e: f64[4, 6]):
    a: f64[2, 4, 6] = linear(x, v)
    r: f64[2, 4, 6] = gelu(a)
    {body}
"""
READ = "\n    y: f64[2, 4, 5] = linear(s, w, c)\n    return y"


@pytest.mark.parametrize(
    "body",
    [
        "s: f64[2, 4, 6] = mul(r, 2.5)" + READ,
        "s: f64[2, 4, 6] = div(r, 8.0)" + READ,
        "s: f64[2, 4, 6] = mul(r, g)" + READ,
        "s: f64[2, 4, 6] = mul(g, r)" + READ,
        "s: f64[2, 4, 6] = mul(x, 0.3)" + READ,
        "m: f64[2, 4, 6] = mul(r, 3.0)\n    s: f64[2, 4, 6] = relu(m)" + READ,
        "m: f64[2, 4, 6] = mul(r, g)\n    p: f64[2, 4, 2, 3] = reshape(m, shape=(2, 4, 2, 3))\n"
        "    s: f64[2, 4, 6] = reshape(p, shape=(2, 4, 6))" + READ,
        "s: f64[2, 4, 6] = mul(r, g)\n    z: f64[2, 4, 3] = linear(s, u)\n"
        "    y: f64[2, 4, 5] = linear(s, w, c)\n    return y, z",
    ],
    ids=["number", "quotient", "channels", "turned", "input", "activation", "moved", "two"],
)
def test_what_reads_a_product_takes_its_factor_up(body: str) -> None:
    found, (remark,) = folded(FoldScales(), SCALED.format(body=body))
    assert remark.applied and {"mul", "div"}.isdisjoint(node.op for node in found.nodes)
    assert "g" not in found.params


@pytest.mark.parametrize("normed", [True, False])
def test_what_writes_keys_takes_up_a_factor_of_queries(normed: bool) -> None:
    norm = "rms_norm({}, {}, normalized_shape=(3,))" if normed else "mul({}, {})"
    found, (remark,) = folded(
        FoldScales(),
        f"""
def graph(x: f64[2, 5, 8], t: f64[5, 3], *, wq: f64[12, 8], gq: f64[3], wk: f64[6, 8], gk: f64[3],
          wv: f64[6, 8]):
    q: f64[2, 5, 12] = linear(x, wq)
    qs: f64[2, 5, 4, 3] = reshape(q, shape=(2, 5, 4, 3))
    qh: f64[2, 4, 5, 3] = transpose(qs, dim0=1, dim1=2)
    qn: f64[2, 4, 5, 3] = {norm.format("qh", "gq")}
    qr: f64[2, 4, 5, 3] = mul(qn, t)
    qc: f64[2, 4, 5, 3] = mul(qr, 0.5)
    k: f64[2, 5, 6] = linear(x, wk)
    ks: f64[2, 5, 2, 3] = reshape(k, shape=(2, 5, 2, 3))
    kh: f64[2, 2, 5, 3] = transpose(ks, dim0=1, dim1=2)
    kn: f64[2, 2, 5, 3] = {norm.format("kh", "gk")}
    kr: f64[2, 2, 5, 3] = mul(kn, t)
    v: f64[2, 5, 6] = linear(x, wv)
    vs: f64[2, 5, 2, 3] = reshape(v, shape=(2, 5, 2, 3))
    vh: f64[2, 2, 5, 3] = transpose(vs, dim0=1, dim1=2)
    y: f64[2, 4, 5, 3] = scaled_dot_product_attention(qc, kr, vh, enable_gqa=True)
    return y
""".replace("mul(qh, gq)", "relu(qh)").replace("mul(kh, gk)", "relu(kh)"),
    )
    assert remark.applied and remark.text == f"{'kn' if normed else 'k'} took up qc"
    assert "qc" not in [node.name for node in found.nodes]


@pytest.mark.parametrize("factor", ["0.5", "-0.5"])
def test_a_number_goes_back_through_moves(factor: str) -> None:
    body = f"""b: f64[2, 4, 6] = linear(r, v)
    p: f64[2, 4, 2, 3] = reshape(b, shape=(2, 4, 2, 3))
    m: f64[2, 4, 2, 3] = mul(p, {factor})
    s: f64[2, 4, 2, 3] = softmax(m, dim=-1)
    return s"""
    text = SCALED.format(body=body).replace("linear(x, v)", "linear(x, e)").replace(
        "e: f64[4, 6]", "e: f64[6, 6]"
    )  # fmt: skip
    found, (remark,) = folded(FoldScales(), text)
    assert remark.site == "b" and "mul" not in [node.op for node in found.nodes]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("s: f64[2, 4, 6] = mul(r, 2.5)\n    return s", "cannot take it up"),
        ("s: f64[2, 4, 6] = mul(r, 2.5)\n    y: f64[2, 4, 6] = softmax(s, dim=-1)\n    return y",
         "cannot take it up"),
        ("s: f64[2, 4, 6] = mul(r, -2.5)" + READ, "only positive factors"),
        ("s: f64[2, 4, 6] = mul(r, e)" + READ, "vary along several axes"),
        ("m: f64[2, 4, 6] = mul(r, 2.5)\n    s: f64[2, 4, 6] = gelu(m)" + READ,
         "cannot take it up"),
        ("m: f64[2, 4, 6] = mul(r, 2.5)\n    b: f64[2, 4, 6] = linear(x, v)\n"
         "    s: f64[2, 4, 6] = add(m, b)" + READ, "b adds to it"),
        ("m: f64[2, 4, 6] = mul(r, 2.5)\n    s: f64[2, 4, 6] = add(m, 1.0)" + READ,
         "cannot take it up"),
        ("m: f64[2, 4, 6] = mul(r, 2.5)\n    i: i64[2, 4, 6] = to(m, dtype=i64)\n"
         "    s: f64[2, 4, 6] = to(i, dtype=f64)" + READ, "rounds to torch.int64"),
    ],
    ids=["output", "softmax", "negative", "table", "gelu", "stream", "shifted", "rounded"],
)  # fmt: skip
def test_a_factor_that_is_needed_stays(body: str, why: str) -> None:
    found, remarks = folded(FoldScales(), SCALED.format(body=body))
    assert why in remarks[0].text and not remarks[0].applied
    assert "mul" in [node.op for node in found.nodes]


@pytest.mark.parametrize("dtype", ["i64", "c128"])
def test_a_factor_of_numbers_that_are_not_real_stays(dtype: str) -> None:
    body = f"""a: {dtype}[2, 4, 6] = to(r, dtype={dtype})
    m: {dtype}[2, 4, 6] = mul(a, 3)
    s: {dtype}[2, 4, 6] = neg(m)
    return s"""
    text = SCALED.format(body=body).replace("a: f64[2, 4, 6] = linear(x, v)\n    r: f64", "r: f64")
    found, remarks = folded(FoldScales(), text.replace("gelu(a)", "gelu(x)"))
    assert not remarks and "mul" in [node.op for node in found.nodes]


def test_what_nobody_reads_has_no_factor() -> None:
    body = "k: f64[2, 4, 6] = mul(r, 3.0)\n    l: f64[2, 4, 6] = mul(k, 2.0)"
    _, remarks = folded(FoldScales(), SCALED.format(body=f"{body}\n    return r"))
    assert not remarks


PADDED = """
def graph(x: f64[2, 3, 6, 7], *, w: f64[4, 3, 3, 3], v: f64[3, 1, 3, 3]):
    p: f64[2, 3, {high}, {wide}] = constant_pad_nd(x, pad={pad}{value})
    y: f64[2, 4, {out}] = conv2d(p, w, padding={padding}, stride={stride})
    return y
"""


@pytest.mark.parametrize(
    ("pad", "padding", "stride", "out", "wanted"),
    [
        ((1, 1), (0, 0), (1, 1), (4, 7), (0, 1)),
        ((1, 1, 2, 2), (1, 0), (2, 1), (5, 7), (3, 1)),
        ((2, 2, 1, 1, 0, 0), "'valid'", (1, 1), (6, 9), (1, 2)),
    ],
    ids=["one axis", "beside its own", "as text"],
)
def test_a_convolution_pads_for_itself(
    pad: tuple[int, ...], padding: object, stride: object, out: object, wanted: object
) -> None:
    text = PADDED.format(
        high=6 + sum(pad[2:4]), wide=7 + sum(pad[:2]), pad=pad, value="", padding=padding,
        stride=stride, out=str(out)[1:-1],
    )  # fmt: skip
    found, (remark,) = folded(FoldPads(), text)
    assert [node.op for node in found.nodes] == ["conv2d"] and remark.applied
    assert found["y"].attrs["padding"] == wanted
    graph, inputs = filled(text)
    assert (
        difference(
            lower(astype(found, torch.float32))([x.float() for x in inputs]), execute(graph, inputs)
        )
        < 1e-5
    )


@pytest.mark.parametrize(("padding", "wanted"), [("(0, 0)", (0, 1)), ("(1,)", (1, 2))])
def test_without_a_batch_and_with_one_number_for_all_axes(
    padding: str, wanted: tuple[int, ...]
) -> None:
    out = ", ".join(str(size + 2 * own - 2) for size, own in zip((6, 7), wanted, strict=True))
    text = PADDED.format(
        high=6, wide=9, pad=(1, 1), value="", padding=padding, stride=(1, 1), out=out
    )
    for written in (text, text.replace("f64[2, ", "f64[")):
        found, (remark,) = folded(FoldPads(), written)
        assert remark.applied and found["y"].attrs["padding"] == wanted


@pytest.mark.parametrize(
    ("pad", "value", "why"),
    [
        ((0, 1, 0, 1), "", "both sides alike"),
        ((1, 1), ", value=1.0", "pads with 1.0"),
        ((1, 1, 1, 1, 0, 0, 1, 1), "", "no kernel moves along"),
        ((-1, -1), "", "both sides alike"),
    ],
    ids=["one side", "ones", "batch", "cut"],
)
def test_a_padding_that_a_convolution_cannot_do_stays(
    pad: tuple[int, ...], value: str, why: str
) -> None:
    high, wide = 6 + sum(pad[2:4]), 7 + sum(pad[:2])
    text = PADDED.format(
        high=high, wide=wide, pad=pad, value=value, padding=(0, 0), stride=(1, 1),
        out=f"{high - 2}, {wide - 2}",
    )  # fmt: skip
    if len(pad) == 8:
        text = text.replace("p: f64[2", "p: f64[4").replace("y: f64[2", "y: f64[4")
    found, (remark,) = folded(FoldPads(), text)
    assert why in remark.text and len(found.nodes) == 2
