"""Convolutions become ones on codes only where what they give is read as codes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from regauge.ir import Graph, Node, parse
from regauge.ir.interpret import execute
from regauge.passes import Context, Quantize
from regauge.passes.manager import difference

HEAD = (
    "x: f32[2, 4, 8, 8], *, a: f32[16, 4, 3, 3], b: f32[16, 16, 3, 3], k: f32[16, 16, 3], "
    "n: f32[16, 16, 3], l: f32[10, 16]"
)
BLOCK = (
    "p = conv2d(x, a, padding=(1, 1))",
    "q = relu(p)",
    "m = max_pool2d(q, kernel_size=(2, 2))",
    "r = conv2d(m, b, padding=(1, 1))",
    "s = add(r, m)",
    "t = relu(s)",
)
END = ("g = mean(t, dim=(2, 3))", "y = linear(g, l)")


def quantized(*body: str, closed: bool = True, activations: str = "static") -> tuple[Graph, Graph]:
    """A graph with random weights, and what becomes of it."""
    result = body[-1].split(" =")[0]
    graph = parse("\n    ".join([f"def graph({HEAD}):", *body, f"return {result}"]))
    generator = torch.Generator().manual_seed(0)
    for name, node in graph.params.items():
        shape = [int(size) for size in node.shape]
        graph.store[name] = torch.randn(shape, generator=generator) / 12
    x = torch.randn(2, 4, 8, 8, generator=generator)
    context = Context(inputs=[x], calibration=[[x]], closed_convolutions=closed)
    new, _ = Quantize(activations, least=1)(graph, context)  # type: ignore[arg-type]
    error = difference(execute(new, [x]), execute(graph, [x]))
    assert 1e-4 < error < 0.03
    return graph, new


def codes_of(graph: Graph, name: str) -> Node | None:
    """The quantize that alone reads a value."""
    (node,) = (node for node in graph.nodes if node.name == name)
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].op == "quantize" else None


def test_a_residual_block_is_codes_from_end_to_end() -> None:
    _, new = quantized(*BLOCK, *END)
    assert all(codes_of(new, name) for name in ("q", "m", "r", "t"))
    assert all(
        arg.op == "dequantize" for node in new.nodes if node.op == "add" for arg in node.args
    )


def test_a_maximum_has_the_scale_of_what_it_is_taken_of() -> None:
    _, new = quantized(*BLOCK, *END)
    before, after = codes_of(new, "q"), codes_of(new, "m")
    assert before is not None and after is not None
    for one, other in zip(before.args[1:], after.args[1:], strict=True):
        assert torch.equal(new.value(one), new.value(other))


def test_an_image_as_a_row_has_the_codes_of_the_image() -> None:
    row = ("p = conv2d(x, a, stride=(8, 8), padding=(1, 1))", "q = relu(p)")
    _, new = quantized(*row, "g = reshape(q, shape=(2, 16))", "y = linear(g, l)")
    before, after = codes_of(new, "q"), codes_of(new, "g")
    assert before is not None and after is not None
    for one, other in zip(before.args[1:], after.args[1:], strict=True):
        assert torch.equal(new.value(one), new.value(other))
    _, new = quantized(*row, "g = reshape(q, shape=(2, 1, 16))", "y = linear(g, l)")  # a token
    assert codes_of(new, "q") is None and codes_of(new, "g") is not None


def test_sequences_are_codes_as_images_are() -> None:
    _, new = quantized(
        "v = reshape(x, shape=(2, 16, 16))",
        "p = conv1d(v, k, padding=(1,))",
        "m = max_pool1d(p, kernel_size=(2,), stride=(2,))",
        "r = conv1d(m, n)",
        "t = adaptive_avg_pool1d(r, output_size=(1,))",
        "g = reshape(t, shape=(2, 16))",
        "y = linear(g, l)",
    )
    assert all(codes_of(new, name) for name in ("v", "p", "m", "r"))


def test_a_target_may_take_float_results() -> None:
    _, new = quantized(*BLOCK, *END, closed=False)
    assert codes_of(new, "r") is None
    assert sum(node.op == "quantize" for node in new.nodes) == 3  # what contractions read


def test_a_result_that_something_else_reads_leaves_its_convolution_in_floats() -> None:
    _, new = quantized(*BLOCK[:2], "e = gelu(q)", "r = conv2d(e, b)", "t = relu(r)", *END)
    convs = {node.name: node.args[0].op for node in new.nodes if node.op == "conv2d"}
    assert convs == {"p": "input", "r": "dequantize"}
    # Its weights are codes all the same: they are what the file is made of.
    assert all(n.args[1].op == "dequantize" for n in new.nodes if n.op == "conv2d")


def test_one_float_convolution_takes_those_that_feed_it_along() -> None:
    _, new = quantized(*BLOCK, "f = conv2d(t, b)", "g = tanh(f)")
    # f is read by tanh, so it is one of floats; then the sum t is not read as codes, and so on
    assert {n.args[0].op for n in new.nodes if n.op == "conv2d"} == {"input", "max_pool2d", "relu"}
    assert not any(node.op == "quantize" for node in new.nodes)


def test_scales_found_at_run_time_leave_convolutions_in_floats() -> None:
    _, new = quantized(*BLOCK, *END, activations="dynamic")
    assert all(n.args[0].op != "dequantize" for n in new.nodes if n.op == "conv2d")
    assert all(n.args[0].op == "dequantize" for n in new.nodes if n.op == "linear")


def test_padding_of_zeros_passes_codes_on() -> None:
    body = ("p = conv2d(x, a)", "q = relu(p)", "z = constant_pad_nd(q, pad=(0, 1, 1, 0))")
    _, new = quantized(*body, "r = conv2d(z, b)", "g = mean(r, dim=(2, 3))", "y = linear(g, l)")
    assert codes_of(new, "z") is not None
    (padded,) = (node for node in new.nodes if node.name == "z")
    assert padded.args[0].name == "q"  # not rounded twice
    ones = (body[0], body[1], "z = constant_pad_nd(q, pad=(0, 1, 1, 0), value=1.0)")
    _, new = quantized(*ones, "r = conv2d(z, b)", "g = mean(r, dim=(2, 3))", "y = linear(g, l)")
    assert next(node for node in new.nodes if node.name == "p").args[0].op == "input"


@pytest.mark.parametrize("coded_results", [False, True])
def test_where_all_results_get_codes_later_convolutions_read_codes_anywhere(
    coded_results: bool, graph_of: Callable[..., Graph]
) -> None:
    graph = graph_of(
        "x: f32[1, 4, 6, 6], *, w: f32[4, 4, 3, 3], v: f32[4, 4, 3, 3]",
        "a = conv2d(x, w)",
        "b = silu(a)",
        "y = conv2d(b, v)",
    )
    x = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    context = Context(inputs=[x], calibration=[[x]], closed_convolutions=True)
    new, _ = Quantize("static", least=0, coded_results=coded_results)(graph, context)
    assert [new[name].args[0].op == "dequantize" for name in ("a", "y")] == [coded_results] * 2
