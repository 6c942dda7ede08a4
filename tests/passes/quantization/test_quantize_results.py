"""Codes from end to end: each op between codes that it reads and codes that it gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from regauge.ir import Graph, InputError, Node
from regauge.ir.interpret import execute
from regauge.passes import Context, Quantize, QuantizeResults
from regauge.passes.manager import difference

Make = Callable[..., Graph]
Feed = Callable[..., list[torch.Tensor]]

BLOCK = (
    "x: f32[2, 6, 32], *, w: f32[32], b: f32[32], u: f32[64, 32], c: f32[64], v: f32[32, 64], "
    "p: f32[1, 6, 32]",
    "a = add(x, p)",
    "n = layer_norm(a, w, b, normalized_shape=(32,))",
    "h = linear(n, u, c)",
    "g = gelu(h)",
    "o = linear(g, v)",
    "y = add(o, a)",
)


def coded(graph: Graph, inputs: list[torch.Tensor], activations: str = "static") -> Graph:
    context = Context(inputs=inputs, calibration=[inputs])
    new, _ = Quantize(activations, least=0)(graph, context)
    return QuantizeResults(activations)(new, context)[0]


def codes_of(graph: Graph, name: str) -> Node:
    """The quantize that alone reads a value."""
    (user,) = next(n for n in (*graph.inputs, *graph.nodes) if n.name == name).users
    assert user.op == "quantize", f"{name} is read by {user}"
    return user


def parameters(graph: Graph, name: str) -> tuple[float, int]:
    scale, zero = (graph.value(param) for param in codes_of(graph, name).args[1:3])
    return scale.item(), int(zero)


@pytest.mark.parametrize(("activations", "most"), [("static", 0.03), ("static16", 0.012)])
def test_every_value_is_codes(
    graph_of: Make, inputs_of: Feed, activations: str, most: float
) -> None:
    graph = graph_of(*BLOCK)
    inputs = inputs_of(graph)
    new = coded(graph, inputs, activations)
    for name in "xanhgoy":
        codes = codes_of(new, name)
        assert codes.dtype == (torch.uint16 if activations == "static16" else torch.uint8)
        (back,) = codes.users
        assert back.op == "dequantize" and back.args[1:] == codes.args[1:]
    (result,) = new.outputs
    assert result.op == "dequantize" and result.dtype == torch.float32
    assert 1e-4 < difference(execute(new, inputs), execute(graph, inputs)) < most


def test_constants_are_codes_and_biases_are_not(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(*BLOCK)
    new = coded(graph, inputs_of(graph), "static16")
    assert {"b", "c"} <= new.params.keys() and not {"w", "u", "v", "p"} & new.params.keys()
    assert new["w_codes"].dtype == torch.uint8  # a weight, which the norm multiplies by
    assert new["p_codes"].dtype == torch.uint16


def test_numbers_are_constants_too(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of("x: f32[2, 8]", "y = mul(x, 0.125)", "z = add(y, -3)")
    inputs = inputs_of(graph)
    context = Context(inputs=inputs, calibration=[inputs])
    new, _ = QuantizeResults()(graph, context)
    values = [new.value(node) for node in new.params.values() if node.name.endswith("_codes")]
    assert [int(value) for value in values] == [255, 0]
    (found,), (wanted,) = execute(new, inputs), execute(graph, inputs)
    assert difference((found,), (wanted,)) < 0.01


def test_what_only_moves_keeps_its_codes(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(
        "x: f32[2, 6, 32], *, w: f32[32, 32]",
        "a = gelu(x)",
        "p = reshape(a, shape=(2, 6, 4, 8))",
        "q = transpose(p, dim0=1, dim1=2)",
        "s = slice(q, dim=2, start=0, end=3)",
        "r = reshape(s, shape=(2, 3, 32))",
        "y = linear(r, w)",
    )
    inputs = inputs_of(graph)
    new = coded(graph, inputs)
    assert len({parameters(new, name) for name in "apqsr"}) == 1
    assert parameters(new, "y") != parameters(new, "a")


def test_all_that_read_the_source_of_a_movement_agree(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(
        "x: f32[2, 6, 32], *, w: f32[32, 16]",
        "a = gelu(x)",
        "s = slice(a, dim=2, start=0, end=16)",
        "y = linear(s, w)",
        "z = mul(a, a)",
        "o = add(y, z)",
    )
    inputs = inputs_of(graph)
    inputs[0][..., 16:] *= 4  # what is cut off is greater, and read by z
    new = coded(graph, inputs)
    assert parameters(new, "a") == parameters(new, "s")
    assert parameters(new, "a")[0] * 255 > float(torch.nn.functional.gelu(inputs[0]).max())


def test_rows_of_a_table_are_its_codes(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of("i: i64[2, 5], *, e: f32[7, 32]", "y = embedding(e, i)")
    inputs = [torch.randint(0, 7, (2, 5))]
    new, _ = QuantizeResults()(graph, Context(inputs=inputs, calibration=[inputs]))
    assert parameters(new, "y") == (new.value(new["e_scale"]).item(), int(new.value(new["e_zero"])))


def test_a_clip_from_zero_is_the_rounding_and_another_is_not(
    graph_of: Make, inputs_of: Feed
) -> None:
    graph = graph_of(
        "x: f32[2, 32], *, w: f32[32, 32], u: f32[32, 32], v: f32[32, 32]",
        "h = linear(x, w)",
        "r = relu(h)",
        "o = linear(r, u)",
        "t = hardtanh(o)",
        "y = linear(t, v)",
    )
    new = coded(graph, inputs_of(graph))
    assert [user.op for user in new["h"].users] == ["relu"]
    assert parameters(new, "r")[1] == 0
    codes_of(new, "o")
    codes_of(new, "t")


@pytest.mark.parametrize(
    ("op", "eight", "sixteen"),
    [
        ("sigmoid(x)", (2**-8, 0), (2**-16, 0)),
        ("softmax(x, dim=-1)", (2**-8, 0), (2**-16, 0)),
        ("tanh(x)", (2**-7, 128), (2**-15, 2**15)),
    ],
)
def test_limits_that_an_op_sets_are_those_of_its_codes(
    graph_of: Make,
    inputs_of: Feed,
    op: str,
    eight: tuple[float, int],
    sixteen: tuple[float, int],
) -> None:
    graph = graph_of("x: f32[2, 32], *, w: f32[32, 32]", f"a = {op}", "y = linear(a, w)")
    inputs = inputs_of(graph)
    assert parameters(coded(graph, inputs), "a") == eight
    assert parameters(coded(graph, inputs, "static16"), "a") == sixteen


def test_sixteen_bits_have_room_for_twice_what_was_seen(graph_of: Make) -> None:
    graph = graph_of("x: f32[2, 2]", "y = neg(x)")
    seen, beyond = torch.tensor([[-1.0, 2.0], [0.5, 1.0]]), torch.tensor([[-2.0, 3.9], [0.0, 1.0]])
    context = Context(inputs=[seen], calibration=[[seen]])
    (eight,), (sixteen,) = (
        execute(QuantizeResults(kind)(graph, context)[0], [beyond])
        for kind in ("static", "static16")
    )
    torch.testing.assert_close(sixteen, -beyond, rtol=0, atol=1e-4)
    assert float(eight.min()) > -2.1


def test_it_needs_calibration_data(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of("x: f32[2, 8]", "y = gelu(x)")
    with pytest.raises(InputError, match="QuantizeResults needs calibration data"):
        QuantizeResults()(graph, Context(inputs=inputs_of(graph)))


def test_what_is_put_together_has_the_codes_of_its_parts(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(
        "x: f32[2, 6, 32], *, t: f32[1, 1, 32], w: f32[32, 32]",
        "e = expand(t, size=(2, 1, 32))",
        "a = gelu(x)",
        "j = cat((e, a), dim=1)",
        "y = linear(j, w)",
    )
    new = coded(graph, inputs_of(graph))
    assert len({parameters(new, name) for name in "eaj"}) == 1
    assert new.value(new["t_scale"]).item() == parameters(new, "a")[0]


def test_what_has_limits_is_rounded_anew_where_it_joins_others(
    graph_of: Make, inputs_of: Feed
) -> None:
    graph = graph_of(
        "x: f32[2, 32], *, w: f32[32, 64]",
        "a = sigmoid(x)",
        "j = cat((a, x), dim=1)",
        "y = linear(j, w)",
    )
    new = coded(graph, inputs_of(graph))
    assert parameters(new, "a") == (2**-8, 0)
    assert parameters(new, "j") != (2**-8, 0)


@pytest.mark.parametrize(
    "op", ["max_pool2d(a, kernel_size=(2, 2))", "avg_pool2d(a, kernel_size=(2, 2))"]
)
def test_a_pool_has_the_codes_of_what_it_reads(graph_of: Make, inputs_of: Feed, op: str) -> None:
    graph = graph_of("x: f32[2, 3, 8, 8]", "a = gelu(x)", f"p = {op}", "y = gelu(p)")
    inputs = inputs_of(graph)
    new, _ = QuantizeResults()(graph, Context(inputs=inputs, calibration=[inputs]))
    assert parameters(new, "p") == parameters(new, "a") != parameters(new, "y")


@pytest.mark.parametrize("op", ["avg_pool2d(a, kernel_size=(8, 8))",
                                "adaptive_avg_pool2d(a, output_size=(1, 1))"])  # fmt: skip
def test_means_have_all_of_what_they_are_taken_of(graph_of: Make, inputs_of: Feed, op: str) -> None:
    graph = graph_of(
        "x: f32[2, 4, 8, 8], *, w: f32[5, 4]",
        "a = relu(x)",
        f"p = {op}",
        "f = reshape(p, shape=(2, 4))",
        "y = linear(f, w)",
    )
    inputs = inputs_of(graph)
    new = coded(graph, inputs)
    assert parameters(new, "a")[0] * 255 == pytest.approx(inputs[0].max().item())
    assert difference(execute(new, inputs), execute(graph, inputs)) < 0.03


def test_what_comes_of_the_last_weights_can_stay_in_floats(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(
        "x: f32[4, 6], *, w: f32[8, 6], v: f32[3, 8], c: f32[3]",
        "a = linear(x, w)",
        "b = relu(a)",
        "d = linear(b, v)",
        "e = add(d, c)",
        "y = softmax(e, dim=-1)",
    )
    inputs = inputs_of(graph)
    context = Context(inputs=inputs, calibration=[inputs])
    new, _ = QuantizeResults(floats=frozenset({"linear"}))(graph, context)
    rounded = [node.args[0].name for node in new.nodes if node.op == "quantize"]
    assert rounded == ["x", "b"]
    assert new["e"].args == (new["d"], new["c"]) and new["y"].args == (new["e"],)
    every, _ = QuantizeResults(floats=frozenset({"conv2d"}))(graph, context)
    rounded = [node.args[0].name for node in every.nodes if node.op == "quantize"]
    assert rounded == ["x", "b", "d", "e", "y"]


def test_weights_without_channels_of_their_own_are_about_zero(
    graph_of: Make, inputs_of: Feed
) -> None:
    graph = graph_of(
        "x: f32[1, 8, 12], *, w: f32[8, 1, 3]",
        "y = conv_transpose1d(x, w, stride=(2,), groups=8)",
    )
    graph.store["w"] = graph.store["w"].abs() + 0.1
    inputs = inputs_of(graph)
    new, _ = QuantizeResults()(graph, Context(inputs=inputs, calibration=[inputs]))
    weight = new["y"].args[1]
    assert weight.op == "dequantize" and weight.args[0].dtype == torch.int8
    assert int(new.value(weight.args[2])) == 0
    assert int(new.value(weight.args[0]).max()) == 127


def test_what_is_between_neighbours_has_their_codes(graph_of: Make, inputs_of: Feed) -> None:
    call = "upsample_bilinear2d(x, output_size=(3, 3), align_corners=False, scale_factors=None)"
    graph = graph_of("x: f32[1, 2, 6, 6]", f"y = {call}")
    inputs = inputs_of(graph)
    new, _ = QuantizeResults()(graph, Context(inputs=inputs, calibration=[inputs]))
    assert parameters(new, "y") == parameters(new, "x")
