"""What attention multiplies, as codes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from regauge.ir import Graph, InputError, Node
from regauge.ir.interpret import execute
from regauge.passes import Context, Legalize, QuantizeAttention
from regauge.passes.manager import difference

Make = Callable[..., Graph]
Feed = Callable[..., list[torch.Tensor]]

HEADS = "q: f32[2, 4, 6, 8], k: f32[2, 4, 6, 8], v: f32[2, 4, 6, 8], m: f32[6, 6]"
ATTENTION = (HEADS, "y = scaled_dot_product_attention(q, k, v, m)")


def rounded(
    graph: Graph, inputs: list[torch.Tensor], probabilities: str | None = None
) -> tuple[Graph, list[str]]:
    context = Context(inputs=inputs, calibration=[inputs])
    new, remarks = QuantizeAttention(probabilities).attempt(graph, context)
    return new, [str(remark) for remark in remarks]


def in_eight_bits(value: torch.Tensor) -> torch.Tensor:
    step = value.abs().max() / 127
    return (value / step).round() * step


def in_parts(graph: Graph) -> Graph:
    lacks = frozenset({"scaled_dot_product_attention"})
    return Legalize(lacks).attempt(graph, Context(inputs=[]))[0]


def coded(node: Node) -> bool:
    return node.op == "dequantize" and node.args[0].op == "quantize"


@pytest.mark.parametrize("apart", [False, True])
def test_queries_and_keys_alone_are_rounded(graph_of: Make, inputs_of: Feed, apart: bool) -> None:
    graph = graph_of(*ATTENTION)
    inputs = inputs_of(graph)
    if apart:
        graph = in_parts(graph)
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


def test_probabilities_and_values_are_rounded_where_asked(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(*ATTENTION)
    inputs = inputs_of(graph)
    new, remarks = rounded(in_parts(graph), inputs, "static")
    q, k, v, mask = inputs
    weights = (in_eight_bits(q) @ in_eight_bits(k).mT * 8**-0.5 + mask).softmax(-1)
    exact = (q @ k.mT * 8**-0.5 + mask).softmax(-1)  # whose range is seen
    step = exact.max() / 255
    weights = (weights / step).round().clamp(0, 255) * step
    assert difference(execute(new, inputs), [weights @ in_eight_bits(v)]) < 5e-3
    assert [remark.split(": ")[-1] for remark in remarks] == [
        "queries and keys in codes",
        "probabilities in static",
    ]


def test_probabilities_may_be_powers_of_the_root_of_two(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(*ATTENTION)
    inputs = inputs_of(graph)
    format_ = "static-logsqrt2-4"
    new, _ = rounded(in_parts(graph), inputs, format_)
    (fake,) = (node for node in new.nodes if node.op == "fake_quantize")
    assert fake.args[0].op == "softmax" and fake.attrs["format"] == "logsqrt2-4"
    coarse, _ = rounded(in_parts(graph), inputs, "static-int4-tensor")
    wanted = execute(graph, inputs)
    near, far = (difference(execute(g, inputs), wanted) for g in (new, coarse))
    assert near < far


def test_two_kinds_of_probabilities_are_rounded_once_each(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(
        "a: f32[2, 6, 8], b: f32[2, 8, 5]",
        "p = softmax(a, dim=-1)",
        "r = softmax(b, dim=-1)",
        "y = matmul(p, r)",
    )
    inputs = inputs_of(graph)
    new, _ = rounded(graph, inputs, "static")
    (product,) = (node for node in new.nodes if node.op == "matmul")
    assert all(map(coded, product.args))
    codes = [node.dtype for node in new.nodes if node.op == "quantize"]
    assert codes == [torch.uint8] * 2
    assert difference(execute(new, inputs), execute(graph, inputs)) < 0.02


def test_probabilities_within_one_op_are_named(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(*ATTENTION)
    _, remarks = rounded(graph, inputs_of(graph), "static")
    assert "nobody sees its probabilities" in remarks[-1]


def test_probabilities_in_an_unknown_format_are_refused() -> None:
    with pytest.raises(InputError, match="no format"):
        QuantizeAttention("logs")


def test_it_asks_for_data(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(*ATTENTION)
    with pytest.raises(InputError, match="QuantizeAttention needs calibration data"):
        QuantizeAttention()(graph, Context(inputs=inputs_of(graph)))
