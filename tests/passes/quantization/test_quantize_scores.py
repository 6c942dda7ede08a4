"""Scores of attention as products of codes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from regauge.ir import Graph, InputError, Node
from regauge.ir.interpret import execute
from regauge.passes import Context, Legalize, QuantizeScores
from regauge.passes.manager import difference

Make = Callable[..., Graph]
Feed = Callable[..., list[torch.Tensor]]

HEADS = "q: f32[2, 4, 6, 8], k: f32[2, 4, 6, 8], v: f32[2, 4, 6, 8], m: f32[6, 6]"
ATTENTION = (HEADS, "y = scaled_dot_product_attention(q, k, v, m)")


def rounded(graph: Graph, inputs: list[torch.Tensor]) -> tuple[Graph, list[str]]:
    new, remarks = QuantizeScores().attempt(graph, Context(inputs=inputs, calibration=[inputs]))
    return new, [str(remark) for remark in remarks]


def in_eight_bits(value: torch.Tensor) -> torch.Tensor:
    step = value.abs().max() / 127
    return (value / step).round() * step


def coded(node: Node) -> bool:
    return node.op == "dequantize" and node.args[0].op == "quantize"


@pytest.mark.parametrize("apart", [False, True])
def test_queries_and_keys_alone_are_rounded(graph_of: Make, inputs_of: Feed, apart: bool) -> None:
    graph = graph_of(*ATTENTION)
    inputs = inputs_of(graph)
    if apart:
        lacks = frozenset({"scaled_dot_product_attention"})
        graph, _ = Legalize(lacks).attempt(graph, Context(inputs=inputs))
    new, remarks = rounded(graph, inputs)
    q, k, v, mask = inputs
    attention = torch.nn.functional.scaled_dot_product_attention
    wanted = attention(in_eight_bits(q), in_eight_bits(k), v, mask)
    assert difference(execute(new, inputs), [wanted]) < 1e-5
    assert len(remarks) == 1 and "queries and keys in codes" in remarks[0]
    assert {node.dtype for node in new.nodes if node.op == "quantize"} == {torch.int8}


def test_every_product_that_scores_are_a_sum_of_is_found(graph_of: Make, inputs_of: Feed) -> None:
    """As where positions have keys of their own; what is capped and moved is still a score."""
    graph = graph_of(
        "q: f32[2, 6, 8], k: f32[2, 6, 8], p: f32[2, 6, 8], v: f32[2, 6, 8]",
        "kt = permute(k, dims=(0, 2, 1))",
        "pt = permute(p, dims=(0, 2, 1))",
        "s = matmul(q, kt)",
        "t = bmm(q, pt)",
        "u = add(s, t)",
        "c = tanh(u)",
        "w = softmax(c, dim=-1)",
        "y = matmul(w, v)",
    )
    new, remarks = rounded(graph, inputs_of(graph))
    assert len(remarks) == 2
    products = {node.name: node for node in new.nodes if node.op in ("matmul", "bmm")}
    assert all(coded(factor) for name in "st" for factor in products[name].args)
    assert products["s"].args[0] is products["t"].args[0]  # what both read is rounded once
    assert not any(map(coded, products["y"].args))


def test_products_with_weights_and_of_classes_stay(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(
        "x: f32[2, 6, 8], *, w: f32[8, 5]",
        "l = matmul(x, w)",
        "y = softmax(l, dim=-1)",
    )
    new, remarks = rounded(graph, inputs_of(graph))
    assert not remarks and str(new) == str(graph)


def test_it_asks_for_data(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(*ATTENTION)
    with pytest.raises(InputError, match="QuantizeScores needs calibration data"):
        QuantizeScores()(graph, Context(inputs=inputs_of(graph)))
