"""Coordinates repeated: a wider graph that computes what the narrow one does."""

from __future__ import annotations

import pytest
import torch
from graphs import GROUPED, filled

from regauge.ir import Graph, GraphError
from regauge.ir.gauge import Region, can_repeat, repeat, transport
from regauge.ir.interpret import execute
from regauge.ir.laws import Kind

PLAIN = """
def graph(x: f64[2, 3, 4], *, a: f64[6, 4], b: f64[6], o: f64[2, 6], c: f64[2]):
    h: f64[2, 3, 6] = linear(x, a, b)
    z: f64[2, 3, 6] = gelu(h)
    y: f64[2, 3, 2] = linear(z, o, c)
    return y
"""
GATED = """
def graph(x: f64[2, 3, 4], *, g: f64[6, 4], u: f64[6, 4], o: f64[2, 6], p: f64[3, 6]):
    h: f64[2, 3, 6] = linear(x, g)
    s: f64[2, 3, 6] = silu(h)
    v: f64[2, 3, 6] = linear(x, u)
    z: f64[2, 3, 6] = mul(s, v)
    y: f64[2, 3, 2] = linear(z, o)
    w: f64[2, 3, 3] = linear(z, p)
    return y, w
"""
FUSED = """
def graph(x: f64[2, 3, 4], *, gu: f64[12, 4], o: f64[2, 6]):
    h: f64[2, 3, 12] = linear(x, gu)
    g: f64[2, 3, 6] = slice(h, dim=2, start=0, end=6)
    v: f64[2, 3, 6] = slice(h, dim=2, start=6, end=12)
    s: f64[2, 3, 6] = silu(g)
    z: f64[2, 3, 6] = mul(s, v)
    y: f64[2, 3, 2] = linear(z, o)
    return y
"""
NORMED = """
def graph(x: f64[2, 3, 4], *, a: f64[6, 4], o: f64[2, 6]):
    z: f64[2, 3, 6] = linear(x, a)
    n: f64[2, 3, 6] = rms_norm(z, normalized_shape=(6,), eps=0.1)
    y: f64[2, 3, 2] = linear(n, o)
    return y
"""
SUMMED = """
def graph(x: f64[2, 3, 4], *, a: f64[6, 4], o: f64[2, 6]):
    z: f64[2, 3, 6] = linear(x, a)
    y: f64[2, 3, 2] = linear(z, o)
    s: f64[2, 3] = sum(z, dim=(-1,))
    return y, s
"""
TIED = """
def graph(ids: i64[2, 3], *, o: f64[5, 6]):
    z: f64[2, 3, 6] = embedding(o, ids)
    y: f64[2, 3, 5] = linear(z, o)
    return y
"""


def region(graph: Graph, name: str) -> Region:
    found = transport(graph, graph[name], Kind.PERMUTATION, axes=(-1,))
    assert isinstance(found, Region), str(found)
    return found


@pytest.mark.parametrize("text", [PLAIN, GATED, FUSED], ids=["plain", "gated", "fused"])
def test_copies_change_nothing_but_the_size(text: str) -> None:
    graph, inputs = filled(text)
    wanted = execute(graph, inputs)
    repeat(graph, region(graph, "z"), torch.tensor([1, 3, 1, 1, 2, 1]))
    graph.verify()
    assert graph["z"].shape == (2, 3, 9)
    assert graph["o"].shape == (2, 9)
    torch.testing.assert_close(execute(graph, inputs), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "node"), [(NORMED, "n"), (SUMMED, "s"), (TIED, "o")], ids=["norm", "sum", "tied"]
)
def test_who_counts_the_copies_is_named(text: str, node: str) -> None:
    graph, inputs = filled(text)
    if text is TIED:
        inputs = [torch.tensor([[0, 4, 1], [2, 3, 3]])]
    wanted = execute(graph, inputs)
    found = region(graph, "z")
    stopped = can_repeat(graph, found)
    assert stopped is not None and node in str(stopped)
    with pytest.raises(GraphError, match="cannot repeat"):
        repeat(graph, found, torch.tensor([1, 3, 1, 1, 2, 1]))
    torch.testing.assert_close(execute(graph, inputs), wanted)  # and nothing was done


def test_heads_of_an_attention_have_no_copies() -> None:
    graph, _ = filled(GROUPED)
    found = transport(graph, graph["kh"], Kind.PERMUTATION, axes=(-3,))
    assert isinstance(found, Region)
    assert can_repeat(graph, found) is not None


def test_there_is_one_of_each_at_least() -> None:
    graph, _ = filled(PLAIN)
    with pytest.raises(GraphError, match="at least once"):
        repeat(graph, region(graph, "z"), torch.tensor([1, 0, 1, 1, 2, 1]))
