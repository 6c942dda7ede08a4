"""Attention on caches that takes and turns queries, keys and values in one tensor."""

from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch
from decoding import CALLS, inputs_of

from regauge.backends.onnx import emit
from regauge.backends.onnx.dialect import ONNX_RUNTIME
from regauge.backends.onnx.forms import fuse
from regauge.backends.onnx.state import BoundSteps
from regauge.backends.onnxruntime import lower
from regauge.ir import Graph, parse
from regauge.ir.formats import named, searched
from regauge.ir.interpret import execute
from regauge.passes.quantization.insertion import store_packed

Kinds: TypeAlias = Callable[[Graph], Counter[str]]

THREE = """
    qs: f32[n, t, {4d}] = linear(x, wq)
    ks: f32[n, t, {2d}] = linear(x, wk)
    vs: f32[n, t, {2d}] = linear(x, wv)
"""
BIAS = THREE.replace("wk)", "wk, bk)")
ONE = """
    ys: f32[n, t, {8d}] = linear(x, w)
    qs: f32[n, t, {4d}] = slice(ys, dim=2, start=0, end={4d})
    ks: f32[n, t, {2d}] = slice(ys, dim=2, start={4d}, end={6d})
    vs: f32[n, t, {2d}] = slice(ys, dim=-1, start={6d}, end={8d})
"""
OTHER_ORDER = """
    ys: f32[n, t, {8d}] = linear(x, w)
    ks: f32[n, t, {2d}] = slice(ys, dim=2, start=0, end={2d})
    qs: f32[n, t, {4d}] = slice(ys, dim=2, start={2d}, end={6d})
    vs: f32[n, t, {2d}] = slice(ys, dim=2, start={6d}, end={8d})
"""
SOME_MORE = ONE.replace("{8d}] = linear(x, w)", "{9d}] = linear(x, w9)")
ANOTHER_VALUE = "    x2: f32[n, t, 24] = relu(x)\n" + THREE.replace(
    "linear(x, wv)", "linear(x2, wv)"
)
READ_TWICE = THREE + "    more: f32[n, t, {2d}] = relu(vs)\n"
TIED = THREE.replace("wv", "wk")

TURNED = """
    c4: f32[1, 1, t, {d}] = unsqueeze(c, dim=1)
    s4: f32[1, 1, t, {d}] = unsqueeze(s, dim=1)
    qm: f32[n, 4, t, {d}] = mul(q0, c4)
    ql: f32[n, 4, t, {h}] = slice(q0, dim=3, start=0, end={h})
    qh: f32[n, 4, t, {h}] = slice(q0, dim=3, start={h}, end={d})
    qn: f32[n, 4, t, {h}] = neg(qh)
    qr: f32[n, 4, t, {d}] = cat((qn, ql), dim=3)
    qi: f32[n, 4, t, {d}] = mul(qr, s4)
    q: f32[n, 4, t, {d}] = add(qm, qi)
    km: f32[n, 2, t, {d}] = mul(k0, c4)
    kl: f32[n, 2, t, {h}] = slice(k0, dim=3, start=0, end={h})
    kh: f32[n, 2, t, {h}] = slice(k0, dim=3, start={h}, end={d})
    kn: f32[n, 2, t, {h}] = neg(kh)
    kr: f32[n, 2, t, {d}] = cat((kn, kl), dim=3)
    ki: f32[n, 2, t, {d}] = mul(kr, s4)
    k: f32[n, 2, t, {d}] = add(km, ki)
"""
OTHER_TABLES = TURNED.replace("mul(k0, c4)", "mul(k0, s4)").replace("mul(kr, s4)", "mul(kr, c4)")
PLAIN = """
    q: f32[n, 4, t, {d}] = clone(q0)
    k: f32[n, 2, t, {d}] = clone(k0)
"""


def graph_of(layers: str = THREE, turns: str = TURNED, width: int = 16, more: str = "") -> Graph:
    """A layer of 4 heads on a cache of 2."""
    text = f"""
def graph(x: f32[n, t, 24], pk: f32[n, 2, p, {{d}}], pv: f32[n, 2, p, {{d}}], *,
          wq: f32[{{4d}}, 24], wk: f32[{{2d}}, 24], wv: f32[{{2d}}, 24], w: f32[{{8d}}, 24],
          w9: f32[{{9d}}, 24], bk: f32[{{2d}}], inverse: f32[{{h}}]):
    assert 1 <= n
    assert 1 <= t
    assert 0 <= p
    batch: int = sym_size(x, dim=0)
    new: int = sym_size(x, dim=1)
    old: int = sym_size(pk, dim=2)
    all: int = int_add(old, new)
    kp: i64[p + t] = arange(end=all)
    qp: i64[t] = arange(end=new)
    qq: i64[t] = add(qp, old)
    q1: i64[t, 1] = unsqueeze(qq, dim=1)
    k1: i64[1, p + t] = unsqueeze(kp, dim=0)
    m: bool[t, p + t] = le(k1, q1)
    f: f32[t, 1] = to(q1, dtype=f32)
    f1: f32[1, t, 1] = unsqueeze(f, dim=0)
    f2: f32[1, t, {{h}}] = mul(f1, inverse)
    f3: f32[1, t, {{d}}] = cat((f2, f2), dim=2)
    c: f32[1, t, {{d}}] = cos(f3)
    s: f32[1, t, {{d}}] = sin(f3)
    {layers.strip()}
    q4: f32[n, t, 4, {{d}}] = reshape(qs, shape=(batch, -1, 4, {{d}}))
    q0: f32[n, 4, t, {{d}}] = permute(q4, dims=(0, 2, 1, 3))
    k4: f32[n, t, 2, {{d}}] = reshape(ks, shape=(batch, -1, 2, {{d}}))
    k0: f32[n, 2, t, {{d}}] = permute(k4, dims=(0, 2, 1, 3))
    v4: f32[n, t, 2, {{d}}] = reshape(vs, shape=(batch, -1, 2, {{d}}))
    v: f32[n, 2, t, {{d}}] = permute(v4, dims=(0, 2, 1, 3))
    {turns.strip()}
    kk: f32[n, 2, p + t, {{d}}] = cat((pk, k), dim=2)
    vv: f32[n, 2, p + t, {{d}}] = cat((pv, v), dim=2)
    o: f32[n, 4, t, {{d}}] = scaled_dot_product_attention(q, kk, vv, m, enable_gqa=True)
    ot: f32[n, t, 4, {{d}}] = permute(o, dims=(0, 2, 1, 3))
    y: f32[n, t, {{4d}}] = reshape(ot, shape=(batch, -1, {{4d}}))
    return y, kk, vv{more}
"""
    sizes = {"{d}": width, "{h}": width // 2} | {f"{{{i}d}}": i * width for i in (2, 4, 6, 8, 9)}
    for name, size in sizes.items():
        text = text.replace(name, str(size))
    graph = parse(text)
    generator = torch.Generator().manual_seed(0)
    for name, node in graph.params.items():
        graph.store[name] = torch.randn([int(s) for s in node.shape], generator=generator) / 4
    graph.prune()
    return graph


def put(graph: Graph, weight: str, name: str) -> None:
    """Store a weight in a format."""
    form, value = named(name), graph.value(graph.params[weight])
    store_packed(graph, graph.params[weight], form.quantize(value, searched(form, value)).pack())


@pytest.mark.parametrize(("batch", "past", "new"), CALLS)
@pytest.mark.parametrize("turns", [TURNED, PLAIN], ids=["turned", "plain"])
@pytest.mark.parametrize("layers", [THREE, BIAS, ONE], ids=["three", "a bias", "one"])
def test_the_op_reads_one_product(
    layers: str, turns: str, batch: int, past: int, new: int, kinds: Kinds
) -> None:
    graph = graph_of(layers, turns)
    count = kinds(graph)
    assert count["GroupQueryAttention"] == count["MatMul"] + count["Gemm"] == 1
    assert count["RotaryEmbedding"] == count["Split"] == 0
    inputs = inputs_of(graph, batch, past, new)
    found, wanted = lower(graph, threads=1)(inputs), execute(graph, inputs)
    torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-6)


def test_tokens_are_turned_where_they_lie_in_buffers() -> None:
    graph = graph_of()
    x, *empty = inputs_of(graph, 2, 0, 9)
    given = {"x": x, "pk": empty[0], "pv": empty[1]}
    steps = lower(graph, threads=1).steps("x", 0, {"pk": 1, "pv": 2}, given, 12)
    assert isinstance(steps, BoundSteps)
    found = [steps(part).clone() for part in x.split([6, 1, 1, 1], 1)]
    whole, keys, _ = execute(graph, [x, *empty])
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(steps.buffers[0][:, :, :9], keys, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["int4-g32-pad", "int4-g32-pad-asym", "int8-g16-pad"])
def test_packed_codes_are_joined(name: str, kinds: Kinds) -> None:
    graph = graph_of(BIAS)
    apart = graph_of(READ_TWICE.replace("wk)", "wk, bk)"), more=", more")
    for one in (graph, apart):
        for weight in ("wq", "wk", "wv"):
            put(one, weight, name)
    assert kinds(graph)["MatMulNBits"] == 1 and kinds(apart)["MatMulNBits"] == 3
    inputs = inputs_of(graph, 2, 6, 1)
    found, wanted = lower(graph, threads=1)(inputs), lower(apart, threads=1)(inputs)
    torch.testing.assert_close(found, wanted[:3], rtol=2e-5, atol=2e-6)


def test_codes_of_other_formats_stay_apart(kinds: Kinds) -> None:
    graph = graph_of()
    for weight, name in (("wq", "int4-g32-pad"), ("wk", "int4-g32-pad"), ("wv", "int8-g32-pad")):
        put(graph, weight, name)
    assert kinds(graph)["MatMulNBits"] == 3 and kinds(graph)["RotaryEmbedding"] == 2


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(graph_of(width=8), id="heads too narrow to be turned"),
        pytest.param(graph_of(turns=OTHER_TABLES), id="keys turned by other tables"),
        pytest.param(graph_of(OTHER_ORDER), id="keys before queries"),
        pytest.param(graph_of(SOME_MORE), id="some more behind the values"),
        pytest.param(graph_of(ANOTHER_VALUE), id="values of another value"),
        pytest.param(graph_of(READ_TWICE, more=", more"), id="values that are read twice"),
        pytest.param(graph_of(TIED), id="a tied weight"),
    ],
)
def test_left_alone(graph: Graph) -> None:
    (attention,) = (n for n in fuse(graph, ONNX_RUNTIME).nodes if n.op == "ort.cached_attention")
    assert None not in attention.args and len(attention.args) == 6
    (op,) = (node for node in emit(graph).graph.node if node.op_type == "GroupQueryAttention")
    assert all(op.input[:3])
    inputs = inputs_of(graph, 2, 6, 1)
    found, wanted = lower(graph, threads=1)(inputs), execute(graph, inputs)
    torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-6)
