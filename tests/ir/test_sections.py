"""Every node has its place in one section, and sections run one after the other give the graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graphs import fill

from regauge.ir import Graph, Node, parse
from regauge.ir.interpret import compute, execute
from regauge.ir.sections import Cut, sections

POST_NORM = """
def graph(x: f64[4, 8], *, m: f64[8], a: f64[8, 8], b: f64[8, 8], c: f64[8, 8], d: f64[8, 8]):
    k: f64[8] = relu(m)
    p: f64[4, 8] = linear(x, a)
    pk: f64[4, 8] = mul(p, k)
    q: f64[4, 8] = linear(pk, b)
    s: f64[4, 8] = add(x, q)
    n: f64[4, 8] = layer_norm(s, normalized_shape=(8,))
    p2: f64[4, 8] = linear(n, c)
    pk2: f64[4, 8] = mul(p2, k)
    q2: f64[4, 8] = linear(pk2, d)
    s2: f64[4, 8] = add(n, q2)
    n2: f64[4, 8] = layer_norm(s2, normalized_shape=(8,))
    return n2
"""


def sample() -> tuple[Graph, list[torch.Tensor]]:
    graph = parse(POST_NORM)
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator)
    return graph, [torch.randn(4, 8, generator=generator, dtype=torch.float64)]


@pytest.mark.parametrize(
    ("cut", "ends"),
    [
        ("graph", ["n2"]),
        ("block", ["n", "n2"]),  # and not the sums that the norms read
        ("branch", ["n", "n2"]),
        ("layer", ["p", "q", "p2", "q2", "n2"]),
    ],
)
def test_sections_end_where_the_next_contractions_read(cut: Cut, ends: list[str]) -> None:
    graph, _ = sample()
    found = sections(graph, cut)
    assert [section.nodes[-1].name for section in found] == ends
    assert sorted(node.name for section in found for node in section.nodes) == sorted(
        node.name for node in graph.nodes
    )


@pytest.mark.parametrize("cut", ["graph", "block", "branch", "layer"])
def test_sections_in_a_row_compute_the_graph(cut: Cut) -> None:
    graph, inputs = sample()
    at_hand: dict[Node, Any] = dict(zip(graph.inputs, inputs, strict=True))
    for section in sections(graph, cut):
        given = {node: at_hand[node] for node in section.entries}
        given |= {node: graph.value(node) for node in graph.params.values()}
        compute(section.nodes, given, keep=section.exits)
        at_hand |= {node: given[node] for node in section.exits}
    found = [at_hand[node] for node in graph.output.inputs]
    assert torch.equal(found[0], execute(graph, inputs)[0])


def test_what_several_sections_read_flows_out_of_the_first() -> None:
    graph, _ = sample()
    first, second = sections(graph, "block")
    assert [node.name for node in first.exits] == ["k", "n"]
    assert [node.name for node in second.entries] == ["n", "k"]
    assert graph["s"] in first.downstream([graph["q"]])
    assert graph["k"] not in first.downstream([graph["q"]])
