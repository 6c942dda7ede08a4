"""Scores of the last tokens alone are those that the whole graph gives them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from regauge.backends.onnx.dialect import ONNX_RUNTIME, Dialect
from regauge.backends.onnx.forms import fuse
from regauge.backends.onnxruntime import lower
from regauge.ir import Graph, parse
from regauge.ir.interpret import execute

HEAD = """
    s: f32[n, t, 9] = linear(h, table)
"""
BY_TOKEN = """
    c1: (u8[n, t, 16], f32[n, t, 1], u8[n, t, 1]) = dynamic_quantize(h)
    c2: u8[n, t, 16] = getitem(c1, 0)
    c3: f32[n, t, 1] = getitem(c1, 1)
    c4: u8[n, t, 1] = getitem(c1, 2)
    c5: f32[n, t, 16] = dequantize(c2, c3, c4)
    s: f32[n, t, 9] = linear(c5, table)
"""
OF_ALL = """
    c1: (u8[n, t, 16], f32[], u8[]) = dynamic_quantize(h, per_token=False)
    c2: u8[n, t, 16] = getitem(c1, 0)
    c3: f32[] = getitem(c1, 1)
    c4: u8[] = getitem(c1, 2)
    c5: f32[n, t, 16] = dequantize(c2, c3, c4)
    s: f32[n, t, 9] = linear(c5, table)
"""
CAPPED = """
    r: f32[n, t, 9] = linear(h, table)
    r1: f32[n, t, 9] = div(r, 2.0)
    r2: f32[n, t, 9] = tanh(r1)
    s: f32[n, t, 9] = mul(r2, 2.0)
"""
ALONG_TOKENS = """
    r: f32[n, t, 9] = linear(h, table)
    s: f32[n, t, 9] = softmax(r, dim=1)
"""
NO_TABLE = """
    s: f32[n, t, 16] = tanh(h)
"""
BETWEEN_TOKENS = """
    r: f32[n, t, 9] = linear(h, table)
    s: f32[n, t, 9] = add(r, r)
"""


def graph_of(head: str = HEAD, returned: str = "s, kk, vv") -> Graph:
    graph = parse(
        f"""
def graph(x: f32[n, t, 16], pk: f32[n, 2, p, 8], pv: f32[n, 2, p, 8], *, table: f32[9, 16]):
    assert 1 <= n
    assert 1 <= t
    assert 0 <= p
    batch: int = sym_size(x, dim=0)
    new: int = sym_size(x, dim=1)
    old: int = sym_size(pk, dim=2)
    all: int = int_add(old, new)
    q4: f32[n, t, 2, 8] = reshape(x, shape=(batch, -1, 2, 8))
    q: f32[n, 2, t, 8] = permute(q4, dims=(0, 2, 1, 3))
    kk: f32[n, 2, p + t, 8] = cat((pk, q), dim=2)
    v: f32[n, 2, t, 8] = neg(q)
    vv: f32[n, 2, p + t, 8] = cat((pv, v), dim=2)
    kp: i64[p + t] = arange(end=all)
    qp: i64[t] = arange(end=new)
    qq: i64[t] = add(qp, old)
    q1: i64[t, 1] = unsqueeze(qq, dim=1)
    k1: i64[1, p + t] = unsqueeze(kp, dim=0)
    m: bool[t, p + t] = le(k1, q1)
    o: f32[n, 2, t, 8] = scaled_dot_product_attention(q, kk, vv, m)
    ot: f32[n, t, 2, 8] = permute(o, dims=(0, 2, 1, 3))
    y: f32[n, t, 16] = reshape(ot, shape=(batch, -1, 16))
    g: f32[n, t, 16] = add(y, x)
    h: f32[n, t, 16] = rms_norm(g, None, normalized_shape=(16,), eps=1e-06)
    {head.strip()}
    return {returned}
"""
    )
    graph.store["table"] = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))
    graph.prune()
    return graph


def inputs_of(batch: int, past: int, new: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = [(batch, new, 16), (batch, 2, past, 8), (batch, 2, past, 8)]
    return [torch.randn(size, generator=generator) for size in sizes]


def steps_of(graph: Graph, x: Tensor) -> Any:
    empty = inputs_of(len(x), 0, 1)[1:]
    given = {"x": x, "pk": empty[0], "pv": empty[1]}
    return lower(graph, threads=1).steps("x", 0, {"pk": 1, "pv": 2}, given, x.shape[1])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("head", [HEAD, CAPPED, BY_TOKEN])
def test_steps_score_the_last_token_and_calls_all(head: str, batch: int) -> None:
    graph = graph_of(head)
    tolerance: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
    x, *empty = inputs_of(batch, 0, 7)
    whole, *_ = execute(graph, [x, *empty])
    steps = steps_of(graph, x)
    for part, end in zip(x.split([5, 1, 1], 1), (5, 6, 7), strict=True):
        torch.testing.assert_close(steps(part), whole[:, end - 1 : end], **tolerance)
    found = lower(graph, threads=1)([x, *empty])
    torch.testing.assert_close(found, execute(graph, [x, *empty]), **tolerance)


@pytest.mark.parametrize(("head", "before"), [(HEAD, "rms_norm"), (BY_TOKEN, "rms_norm")])
def test_the_rest_is_left_out_from_where_values_have_no_other_reader(
    head: str, before: str
) -> None:
    graph = fuse(graph_of(head), ONNX_RUNTIME)
    (cut,) = (node for node in graph.nodes if node.op == "slice")
    assert [user.op for user in cut.users] == [before]
    assert graph.outputs[0].shape == ("n", "scored", 9)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(graph_of(NO_TABLE), id="no table"),
        pytest.param(graph_of(ALONG_TOKENS), id="tokens among each other"),
        pytest.param(graph_of(BETWEEN_TOKENS), id="a value read twice"),
        pytest.param(graph_of(returned="s, kk, vv, h"), id="another output"),
        pytest.param(graph_of(OF_ALL), id="codes in one range of all tokens"),
    ],
)
def test_left_alone(graph: Graph) -> None:
    fused = fuse(graph, ONNX_RUNTIME)
    assert "slice" not in [node.op for node in fused.nodes]
    inputs = inputs_of(2, 0, 5)
    found, wanted = lower(graph, threads=1)(inputs), execute(graph, inputs)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_who_reads_standard_onnx_is_asked_for_nothing() -> None:
    assert len(fuse(graph_of(), Dialect.of("openvino")).inputs) == 3
