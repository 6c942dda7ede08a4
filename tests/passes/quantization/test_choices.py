from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch

from regauge.ir import Graph, InputError, parse
from regauge.ir.codes import fits_pairs
from regauge.ir.interpret import execute
from regauge.passes import Choice, Context, Quantize, Rotate
from regauge.passes.allocation.units import units
from regauge.passes.manager import difference

TEXT = """
def graph(x: f32[4, 9, 32], *, q: f32[64, 32], k: f32[64, 32], v: f32[64, 32], o: f32[32, 64]):
    a: f32[4, 9, 64] = linear(x, q)
    b: f32[4, 9, 64] = linear(x, k)
    c: f32[4, 9, 64] = linear(x, v)
    d: f32[4, 9, 32] = linear(x, r)
    e: f32[4, 9, 32] = linear(c, o)
    return a, b, c, d, e
""".replace("o: f32[32, 64]", "o: f32[32, 64], r: f32[32, 32]")

TABLE = """
def graph(t: i64[4, 9], *, e: f32[50, 32]):
    x: f32[4, 9, 32] = embedding(e, t)
    y: f32[4, 9, 50] = linear(x, e)
    return y
"""


def filled(text: str) -> Graph:
    graph = parse(text)
    generator = torch.Generator().manual_seed(0)
    for name, node in graph.params.items():
        graph.store[name] = torch.randn([int(n) for n in node.shape], generator=generator)
    return graph


def sample() -> tuple[Graph, Context]:
    graph = filled(TEXT)
    x = torch.randn(4, 9, 32, generator=torch.Generator().manual_seed(1))
    return graph, Context(inputs=[x], calibration=[[x]])


def test_each_reader_gets_what_was_chosen_for_it() -> None:
    graph, context = sample()
    choices = {
        "a": Choice(None, None),
        "b": Choice("int4-g16-asym", "dynamic"),
        "c": Choice("int8-channel", None),
        "d": Choice(None, "static"),
    }
    options = Quantize("static", choices=choices)
    assert options.formats == ("int4-g16-asym",)
    new, remarks = options(graph, context)
    read = {name: [used.op for used in new[name].args] for name in "abcde"}
    assert read == {
        "a": ["input", "param"],
        "b": ["dequantize", "decode"],
        "c": ["input", "dequantize"],
        "d": ["dequantize", "param"],
        "e": ["dequantize", "dequantize"],  # the rest, as the options say
    }
    codes = [new[name].args[0].args[0].op for name in "bde"]
    assert codes == ["getitem", "quantize", "quantize"]
    found = execute(new, context.inputs)
    wanted = execute(graph, context.inputs)
    errors = [difference([one], [other]) for one, other in zip(found, wanted, strict=True)]
    assert errors[0] == 0
    assert 0.02 < errors[1] < 0.2  # four bits
    assert all(1e-4 < error < 0.02 for error in errors[2:])
    kept = [remark.site for remark in remarks if not remark.applied]
    assert kept == ["a"]


def test_readers_that_choose_alike_share_codes() -> None:
    graph, context = sample()
    choices = {"b": Choice("int8-channel", "dynamic"), "c": Choice("int4-g16-asym", "dynamic")}
    new, _ = Quantize("static", choices=choices)(graph, context)
    assert new["b"].args[0] is new["c"].args[0]
    assert new["a"].args[0] is new["d"].args[0]
    assert new["a"].args[0] is not new["b"].args[0]


def test_what_all_readers_choose_is_what_the_options_say() -> None:
    graph, context = sample()
    plain, _ = Quantize("static", correct_bias=False)(graph, context)
    choices = {name: Choice("int8-channel", "static") for name in "abcde"}
    options = Quantize(None, weights="int2-g16", correct_bias=False, choices=choices)
    chosen, _ = options(graph, context)
    assert str(chosen) == str(plain)
    for one, other in zip(
        execute(chosen, context.inputs), execute(plain, context.inputs), strict=True
    ):
        assert torch.equal(one, other)


def test_no_data_is_needed_where_nobody_chooses_a_static_range() -> None:
    graph, context = sample()
    empty = Context(inputs=context.inputs)
    plain = Quantize("dynamic", rounding="nearest", correct_bias=False)
    plain(graph, empty)
    with pytest.raises(InputError, match="needs calibration data"):
        Quantize(
            "dynamic",
            rounding="nearest",
            correct_bias=False,
            choices={"a": Choice(activations="static")},
        )(graph, empty)


def test_a_choice_for_nobody_is_refused() -> None:
    graph, context = sample()
    with pytest.raises(InputError, match="no reader of weights is called that") as caught:
        Quantize(choices={"aa": Choice()})(graph, context)
    assert "the nearest names are: a" in str(caught.value)
    with pytest.raises(InputError, match="no reader of weights is called that"):
        Quantize(choices={"q": Choice()})(graph, context)  # a parameter, not its reader


def test_readers_of_a_table_choose_together() -> None:
    graph = filled(TABLE)
    ids = torch.randint(0, 50, (4, 9), generator=torch.Generator().manual_seed(2))
    context = Context(inputs=[ids], calibration=[[ids]])
    new, _ = Quantize("static", choices={"x": Choice("int4-g16")})(graph, context)
    assert new["x"].args[0].op == "decode" and new["x"].args[0] is new["y"].args[1]
    new, _ = Quantize("static", choices={"x": Choice(None), "y": Choice(None, "static")})(
        graph, context
    )
    assert new["x"].args[0].op == new["y"].args[1].op == "param"
    assert new["y"].args[0].op == "dequantize"
    with pytest.raises(InputError, match="e is one weight, and x, y choose different formats"):
        Quantize("static", choices={"x": Choice("int4-g16"), "y": Choice()})(graph, context)


SHARED = """
def graph(x: f32[4, 9, 32], z: f32[4, 32, 6, 6], *, w: f32[32, 32], k: f32[32, 32, 3, 3]):
    a: f32[4, 9, 32] = linear(x, w)
    b: f32[4, 9, 32] = gelu(a)
    c: f32[4, 9, 32] = linear(b, w)
    p: f32[4, 32, 6, 6] = conv2d(z, k, padding=(1, 1))
    q: f32[4, 32, 6, 6] = gelu(p)
    r: f32[4, 32, 6, 6] = conv2d(q, k, padding=(1, 1))
    return c, r
"""


def shared() -> tuple[Graph, Context]:
    graph, generator = filled(SHARED), torch.Generator().manual_seed(1)
    for name in graph.store:
        graph.store[name] = graph.store[name] * 0.2
    inputs = [torch.randn(*map(int, node.shape), generator=generator) for node in graph.inputs]
    return graph, Context(inputs=inputs, calibration=[inputs])


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("activations", ["static", "dynamic", None])
@pytest.mark.parametrize("weights", ["int8-channel", "int4-g16-asym"])
def test_a_weight_that_several_values_meet_gets_codes_once(
    weights: str, activations: Literal["static", "dynamic"] | None, pairs: bool
) -> None:
    graph, context = shared()
    context.pairs_in_16_bits = pairs
    new, _ = Quantize(activations, weights, low_rank=4)(graph, context)
    for first, second in (("a", "c"), ("p", "r")):
        assert new[first].args[1] is new[second].args[1]
    assert new["a"].args[1].op == ("decode" if weights.startswith("int4") else "dequantize")
    assert new["p"].args[1].op == "dequantize"  # kernels of convolutions in a format are few
    if pairs and activations:
        assert fits_pairs(new.value(new["p"].args[1].args[0]))
    damage = difference(execute(new, context.inputs), execute(graph, context.inputs))
    assert 0 < damage < (0.15 if weights.startswith("int4") else 0.03)


def test_who_meets_a_weight_chooses_together() -> None:
    graph, context = shared()
    with pytest.raises(InputError, match="w is one weight, and a, c choose different formats"):
        Quantize("static", choices={"a": Choice("int4-g16")})(graph, context)
    both = dict.fromkeys("ac", Choice(None, None))
    new, _ = Quantize("static", choices=both)(graph, context)
    assert new["a"].args[1] is new["c"].args[1] and new["c"].args[1].op == "param"


def test_a_weight_that_readers_share_is_not_kept_twice() -> None:
    text = TEXT.replace("linear(x, k)", "linear(x, q)").replace("k: f32[64, 32], ", "")
    graph = filled(text)
    x = torch.randn(4, 9, 32, generator=torch.Generator().manual_seed(1))
    context = Context(inputs=[x], calibration=[[x]])
    _, remarks = Quantize("static", choices={"b": Choice("int4-g16")})(graph, context)
    reasons = {remark.site: remark.text for remark in remarks if not remark.applied}
    assert reasons == {"a": "q is also read by b", "b": "q is also read by a"}


def test_a_convolution_that_stays_in_float_gives_and_takes_no_codes() -> None:
    graph = filled(
        """
        def graph(x: f32[2, 4, 8, 8], *, a: f32[16, 4, 3, 3], b: f32[16, 16, 3, 3], l: f32[10, 16]):
            p: f32[2, 16, 6, 6] = conv2d(x, a)
            q: f32[2, 16, 6, 6] = relu(p)
            r: f32[2, 16, 4, 4] = conv2d(q, b)
            g: f32[2, 16] = mean(r, dim=(2, 3))
            y: f32[2, 10] = linear(g, l)
            return y
        """
    )
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    context = Context(inputs=[x], calibration=[[x]], closed_convolutions=True)

    def operands(choices: dict[str, Choice]) -> dict[str, list[str]]:
        new, _ = Quantize("static", least=1, choices=choices)(graph, context)
        return {name: [used.op for used in new[name].args] for name in "prgy"}

    integer = ["dequantize", "dequantize"]
    assert operands({}) == {"p": integer, "r": integer, "g": ["dequantize"], "y": integer}
    assert operands({"p": Choice(None, None)}) == {
        "p": ["input", "param"],
        "r": integer,
        "g": ["dequantize"],
        "y": integer,
    }
    # The one before gains nothing from codes that nobody reads; its weights are stored as codes.
    assert operands({"r": Choice(None, None)}) == {
        "p": ["input", "dequantize"],
        "r": ["relu", "param"],
        "g": ["conv2d"],
        "y": integer,
    }


def test_a_small_weight_keeps_no_other_that_reads_the_same_in_floats() -> None:
    fewer = TEXT.replace("k: f32[64, 32]", "k: f32[24, 32]")  # keys of fewer heads
    graph = filled(fewer.replace("b: f32[4, 9, 64]", "b: f32[4, 9, 24]"))
    _, context = sample()
    for activations in ("static", None):
        new, remarks = Quantize(activations, least=1024)(graph, context)
        assert [str(r) for r in remarks if not r.applied] == ["missed  b: k has only 768 elements"]
        read = {name: new[name].args[1].op for name in "abcde"}
        assert read == {"a": "dequantize", "b": "param", **dict.fromkeys("cde", "dequantize")}
        assert new["b"].args[0].op == "input"  # and what it reads is not rounded


def test_weights_of_products_are_said_to_stay() -> None:
    graph = filled(
        """
        def graph(x: f32[4, 9, 32], *, w: f32[4, 32, 16], q: f32[16, 16]):
            a: f32[4, 9, 16] = matmul(x, w)
            b: f32[4, 9, 16] = linear(a, q)
            return b
        """
    )
    x = torch.randn(4, 9, 32, generator=torch.Generator().manual_seed(1))
    step = Quantize(None, rounding="nearest", correct_bias=False, least=256)
    _, remarks = step(graph, Context(inputs=[x]))
    assert "missed  a: w stays in floating point: a matmul of values reads it" in map(str, remarks)
    _, remarks = replace(step, least=4096).attempt(graph, Context(inputs=[x]))
    assert not any("matmul" in remark.text for remark in remarks)  # too small to count


def turned() -> tuple[Graph, Graph, Context]:
    """A graph that reads a channel far greater than others, the same with that turned, and data."""
    graph, context = sample()
    x = context.inputs[0].clone()
    x[..., 3] *= 20
    for name in "qkvr":
        graph.store[name][:, 3] /= 20
    context = Context(inputs=[x], calibration=[[x]])
    new, _ = Rotate(residual=None, heads=None, inputs=True)(graph, context)
    return graph, new, context


def test_what_turns_values_stays_in_floats() -> None:
    graph, new, context = turned()
    step = Quantize("int4-token", "int8-channel")
    plain, _ = step(graph, context)
    found, remarks = step(new, context)
    turns = [r.site for r in remarks if "all it does is to turn what it reads" in r.text]
    assert turns == ["x_product"]
    assert [part.op for part in found["x_product"].args] == ["reshape", "param"]
    wanted, one, other = (execute(each, context.inputs)[0] for each in (graph, plain, found))
    assert (other - wanted).norm() < 0.5 * (one - wanted).norm()


@pytest.mark.parametrize(
    "step",
    [
        Quantize("static", choices={"x_product": Choice(activations="static")}),
        Quantize("static", coded_results=True),
    ],
)
def test_what_turns_values_gets_codes_where_that_is_asked_for(step: Quantize) -> None:
    _, new, context = turned()
    found, remarks = step(new, context)
    assert found["x_product"].args[1].op == "dequantize"
    assert not [r for r in remarks if not r.applied]


def test_an_orthogonal_layer_of_the_model_is_a_layer() -> None:
    graph, context = sample()
    graph.store["r"] = torch.linalg.qr(graph.store["r"])[0]
    new, _ = Quantize()(graph, context)
    assert new["d"].args[1].op == "dequantize"


def test_what_turns_values_is_no_unit_of_an_allocation() -> None:
    _, new, _ = turned()
    assert [[r.name for r in unit.readers] for unit in units(new)] == [
        ["a"],
        ["b"],
        ["c"],
        ["d"],
        ["e"],
    ]
