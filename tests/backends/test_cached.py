"""Attention on caches, with new tokens put in where they lie, computes what the graph does."""

from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch
from decoding import CALLS, inputs_of
from small_models import zoo_model

from regauge.backends.onnx import emit
from regauge.backends.onnx.dialect import ONNX_RUNTIME, Dialect
from regauge.backends.onnx.forms import fuse
from regauge.backends.onnx.forms.cached import find_fits
from regauge.backends.onnx.state import BoundSteps
from regauge.backends.onnxruntime import lower
from regauge.frontend import trace
from regauge.frontend.caches import with_cache
from regauge.ir import Graph, parse
from regauge.ir.interpret import execute

Kinds: TypeAlias = Callable[[Graph], Counter[str]]

CAUSAL = """
    kp: i64[p + t] = arange(end=all)
    qp: i64[t] = arange(end=new)
    qq: i64[t] = add(qp, old)
    q1: i64[t, 1] = unsqueeze(qq, dim=1)
    k1: i64[1, p + t] = unsqueeze(kp, dim=0)
    m: bool[t, p + t] = le(k1, q1)
"""
WINDOW = (
    CAUSAL.replace("m: bool", "c: bool")
    + """
    near: i64[t, 1] = sub(q1, 3)
    w: bool[t, p + t] = gt(k1, near)
    m: bool[t, p + t] = logical_and(w, c)
"""
)
NUMBERS = (
    CAUSAL.replace("m: bool", "c: bool")
    + """
    m: f32[t, p + t] = where(c, 0.0, -3.4028234663852886e+38)
"""
)
AHEAD = CAUSAL.replace("le(k1, q1)", "lt(k1, q1)")
PLAIN = "scaled_dot_product_attention(q, kk, vv, m, enable_gqa=True)"
REPEATED = "scaled_dot_product_attention(q, kr, vr, m)"


def graph_of(
    mask: str = CAUSAL, attention: str = PLAIN, *, width: int = 8, groups: int = 2
) -> Graph:
    """A layer of 4 heads on a cache of ``groups``."""
    d, g = width, groups
    kinds = f"f32[n, {g}, p, {d}]"
    return parse(
        f"""
def graph(x: f32[n, t, {4 * d}], pk: {kinds}, pv: {kinds}, *, wk: f32[{g * d}, {4 * d}]):
    assert 1 <= n
    assert 1 <= t
    assert 0 <= p
    batch: int = sym_size(x, dim=0)
    new: int = sym_size(x, dim=1)
    old: int = sym_size(pk, dim=2)
    all: int = int_add(old, new)
    q4: f32[n, t, 4, {d}] = reshape(x, shape=(batch, -1, 4, {d}))
    q: f32[n, 4, t, {d}] = permute(q4, dims=(0, 2, 1, 3))
    k2: f32[n, t, {g * d}] = linear(x, wk)
    k4: f32[n, t, {g}, {d}] = reshape(k2, shape=(batch, -1, {g}, {d}))
    k: f32[n, {g}, t, {d}] = permute(k4, dims=(0, 2, 1, 3))
    v: f32[n, {g}, t, {d}] = relu(k)
    kk: f32[n, {g}, p + t, {d}] = cat((pk, k), dim=2)
    vv: f32[n, {g}, p + t, {d}] = cat((pv, v), dim=2)
    kr: f32[n, 4, p + t, {d}] = repeat_interleave(kk, repeats={4 // g}, dim=1)
    vr: f32[n, 4, p + t, {d}] = repeat_interleave(vv, repeats={4 // g}, dim=1)
    vn: f32[n, 4, p + t, {d}] = neg(vr)
    {mask.strip()}
    o: f32[n, 4, t, {d}] = {attention}
    ot: f32[n, t, 4, {d}] = permute(o, dims=(0, 2, 1, 3))
    y: f32[n, t, {4 * d}] = reshape(ot, shape=(batch, -1, {4 * d}))
    return y, kk, vv
"""
    )


def filled(graph: Graph) -> Graph:
    generator = torch.Generator().manual_seed(0)
    for name, node in graph.params.items():
        graph.store[name] = torch.randn([int(s) for s in node.shape], generator=generator) / 4
    graph.prune()
    return graph


@pytest.mark.parametrize(("batch", "past", "new"), CALLS)
@pytest.mark.parametrize("attention", [PLAIN, REPEATED])
@pytest.mark.parametrize("mask", [CAUSAL, WINDOW, NUMBERS])
def test_one_op_takes_the_cache_and_the_new_tokens(
    mask: str, attention: str, batch: int, past: int, new: int, kinds: Kinds
) -> None:
    graph = filled(graph_of(mask, attention))
    count = kinds(graph)
    assert count["GroupQueryAttention"] == 1
    assert count["Concat"] == count["Attention"] == count["Where"] == 0
    inputs = inputs_of(graph, batch, past, new)
    found, wanted = lower(graph, threads=1)(inputs), execute(graph, inputs)
    torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("mask", [CAUSAL, WINDOW])
def test_caches_grow_in_their_buffers(mask: str, groups: int) -> None:
    graph = filled(graph_of(mask, groups=groups))
    runner = lower(graph, threads=1)
    x, *empty = inputs_of(graph, 2, 0, 9)
    given = {"x": x, "pk": empty[0], "pv": empty[1]}
    steps = runner.steps("x", 0, {"pk": 1, "pv": 2}, given, 9)
    assert isinstance(steps, BoundSteps)
    found = [steps(part).clone() for part in x.split([6, 1, 1, 1], 1)]
    whole, keys, _ = execute(graph, [x, *empty])
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(steps.buffers[0], keys, rtol=2e-5, atol=2e-6)


def stepped(mask: str) -> Graph:
    """A layer on a cache, of one token, beside a recurrence ``h' = h / 2 + x``."""
    kinds = "f32[n, 2, p, 8]"
    return parse(
        f"""
def graph(x: f32[n, 1, 32], pk: {kinds}, pv: {kinds}, h: f32[n, 1, 32], *, wk: f32[16, 32],
          at: i64[1]):
    assert 1 <= n
    assert 0 <= p
    batch: int = sym_size(x, dim=0)
    old: int = sym_size(pk, dim=2)
    all: int = int_add(old, 1)
    g: f32[n, 1, 32] = mul(h, 0.5)
    hh: f32[n, 1, 32] = add(g, x)
    q4: f32[n, 1, 4, 8] = reshape(hh, shape=(batch, -1, 4, 8))
    q: f32[n, 4, 1, 8] = permute(q4, dims=(0, 2, 1, 3))
    k2: f32[n, 1, 16] = linear(x, wk)
    k4: f32[n, 1, 2, 8] = reshape(k2, shape=(batch, -1, 2, 8))
    k: f32[n, 2, 1, 8] = permute(k4, dims=(0, 2, 1, 3))
    v: f32[n, 2, 1, 8] = relu(k)
    kk: f32[n, 2, p + 1, 8] = cat((pk, k), dim=2)
    vv: f32[n, 2, p + 1, 8] = cat((pv, v), dim=2)
    kp: i64[p + 1] = arange(end=all)
    qq: i64[1] = add(at, old)
    q1: i64[1, 1] = unsqueeze(qq, dim=1)
    k1: i64[1, p + 1] = unsqueeze(kp, dim=0)
    {mask}
    o: f32[n, 4, 1, 8] = scaled_dot_product_attention(q, kk, vv, m, enable_gqa=True)
    ot: f32[n, 1, 4, 8] = permute(o, dims=(0, 2, 1, 3))
    y: f32[n, 1, 32] = reshape(ot, shape=(batch, -1, 32))
    return y, kk, vv, hh
"""
    )


NEAR = """c: bool[1, p + 1] = le(k1, q1)
    near: i64[1, 1] = sub(q1, 3)
    w: bool[1, p + 1] = gt(k1, near)
    m: bool[1, p + 1] = logical_and(w, c)"""


@pytest.mark.parametrize("mask", ["m: bool[1, p + 1] = le(k1, q1)", NEAR])
def test_state_of_one_size_takes_turns_beside_caches(mask: str) -> None:
    graph = filled(stepped(mask))
    graph.store["at"] = torch.zeros(1, dtype=torch.int64)
    runner = lower(graph, threads=1)
    x, *_ = inputs_of(graph, 2, 0, 1)
    texts = torch.stack([x, x + 1, -x, x * 2, x - 1])
    _, pk, pv, _ = inputs_of(graph, 2, 0, 1)
    given = {"x": x, "pk": pk, "pv": pv, "h": torch.zeros(2, 1, 32)}
    steps = runner.steps("x", 0, {"pk": 1, "pv": 2, "h": 3}, given, 5)
    assert isinstance(steps, BoundSteps)
    state = [given["pk"], given["pv"], given["h"]]
    for token in texts:
        wanted, *state = execute(graph, [token, *state])
        torch.testing.assert_close(steps(token), wanted, rtol=2e-5, atol=2e-6)


def test_a_query_that_does_not_see_itself_is_left_alone() -> None:
    graph = filled(stepped("m: bool[1, p + 1] = lt(k1, q1)"))
    graph.store["at"] = torch.zeros(1, dtype=torch.int64)
    assert lower(graph, threads=1).copies.startswith("o has a mask that is not causal")


def test_all_layers_read_the_lengths_that_are_computed_once() -> None:
    call = with_cache(zoo_model("llama").model, (torch.arange(8).reshape(1, 8),), {})
    graph = trace(zoo_model("llama").model, (), call.traced, dynamic_shapes=call.shapes)
    layers = [n for n in emit(graph).graph.node if n.op_type == "GroupQueryAttention"]
    assert len(layers) == 2
    assert layers[0].input[5:] == layers[1].input[5:]
    assert len(layers[0].input) == 7


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        pytest.param(
            graph_of(AHEAD), "o has a mask that is not causal by positions alone", id="not itself"
        ),
        pytest.param(
            graph_of(width=4), "pk has heads 4 wide, which is no multiple of 8", id="narrow heads"
        ),
        pytest.param(
            graph_of("m: i64[] = full(size=(), fill_value=0)", PLAIN.replace(", m", "")),
            "o has a mask that is not causal by positions alone",
            id="no mask",
        ),
        pytest.param(
            graph_of(attention=PLAIN.replace("q, kk, vv", "q, kk, kk")),
            "they reach no attention that the runtime has as one op",
            id="keys as values",
        ),
        pytest.param(
            graph_of(attention="scaled_dot_product_attention(q, kr, vn, m)"),
            "pv is no cache that attention reads",
            id="values changed on the way",
        ),
    ],
)
def test_left_alone(graph: Graph, reason: str, kinds: Kinds) -> None:
    filled(graph)
    assert lower(graph, threads=1).copies == reason
    assert kinds(graph)["GroupQueryAttention"] == 0
    inputs = inputs_of(graph, 2, 6, 1)
    found, wanted = lower(graph, threads=1)(inputs), execute(graph, inputs)
    torch.testing.assert_close(found, wanted, rtol=2e-5, atol=2e-6)


def test_a_fixed_past_is_left_alone(kinds: Kinds) -> None:
    text = str(graph_of()).replace("    assert 0 <= p\n", "").replace("p + t", "6 + t")
    graph = filled(parse(text.replace(", p, ", ", 6, ")))
    assert find_fits(graph) == []
    assert kinds(graph)["GroupQueryAttention"] == 0


def test_who_reads_standard_onnx_gets_standard_attention() -> None:
    ops = [node.op for node in fuse(filled(graph_of()), Dialect.of("openvino")).nodes]
    assert "ort.cached_attention" not in ops and "ort.attention" in ops
    assert "ort.cached_attention" in [
        node.op for node in fuse(filled(graph_of()), ONNX_RUNTIME).nodes
    ]
