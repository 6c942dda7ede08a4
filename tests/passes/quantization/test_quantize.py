from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from graphs import fill

from regauge.ir import Graph, InputError, Node, parse
from regauge.ir.interpret import execute
from regauge.passes import Choice, Context, Quantize
from regauge.passes.manager import difference
from regauge.passes.quantization.rounder import CorrectBias, Decision, Rounder
from regauge.passes.quantization.solvers import GPTQ, SOLVERS, CoordinateDescent, KBest, Solver

TEXT = """
def graph(t: i64[4, 9], *, e: f32[50, 32], w: f32[64, 32], c: f32[64], u: f32[50, 64]):
    x: f32[4, 9, 32] = embedding(e, t)
    a: f32[4, 9, 64] = linear(x, w, c)
    r: f32[4, 9, 64] = relu(a)
    y: f32[4, 9, 50] = linear(r, u)
    return y
"""


def sample() -> tuple[Graph, Context]:
    graph = parse(TEXT)
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator)
    ids = torch.randint(0, 50, (4, 9), generator=generator)
    return graph, Context(inputs=[ids], calibration=[[ids], [ids.flip(0)]])


@pytest.mark.parametrize("mode", ["static", "dynamic", "dynamic-tensor", None])
def test_codes_are_integers_and_the_function_is_close(mode: str | None) -> None:
    graph, context = sample()
    new, remarks = Quantize(mode)(graph, context)  # type: ignore[arg-type]
    assert all(remark.applied for remark in remarks)
    stored = {name: new.store.type(name).dtype for name in new.params if "codes" in name}
    assert stored == dict.fromkeys(("e_codes", "w_codes", "u_codes"), torch.int8)
    error = difference(execute(new, context.inputs), execute(graph, context.inputs))
    assert 1e-4 < error < 0.03  # eight bits: two decimals are right, and four are not


def test_readers_that_share_a_value_share_its_codes() -> None:
    graph = parse(
        """
        def graph(x: f32[4, 32], *, q: f32[64, 32], k: f32[64, 32]):
            a: f32[4, 64] = linear(x, q)
            b: f32[4, 64] = linear(x, k)
            y: f32[4, 64] = add(a, b)
            return y
        """
    )
    for name in graph.params:
        graph.store[name] = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    new, _ = Quantize("static")(graph, Context(inputs=[x], calibration=[[x]]))
    assert sum(node.op == "quantize" for node in new.nodes) == 1


def test_a_table_and_the_head_that_shares_it_stay_one_tensor() -> None:
    graph = parse(
        """
        def graph(t: i64[4, 9], *, e: f32[50, 32]):
            x: f32[4, 9, 32] = embedding(e, t)
            y: f32[4, 9, 50] = linear(x, e)
            return y
        """
    )
    graph.store["e"] = torch.randn(50, 32, generator=torch.Generator().manual_seed(1))
    ids = torch.randint(0, 50, (4, 9), generator=torch.Generator().manual_seed(2))
    new, _ = Quantize("static")(graph, Context(inputs=[ids], calibration=[[ids]]))
    assert [n for n in new.params if new.store.type(n).dtype == torch.int8] == ["e_codes"]


def test_the_bias_takes_up_the_mean_error() -> None:
    graph, context = sample()
    plain, _ = Quantize("static", correct_bias=False)(graph, context)
    better, _ = Quantize("static", correct_bias=True)(graph, context)
    graph.returns(graph["a"])

    def gap(new: Graph) -> float:
        new.returns(new["a"])
        found = [execute(new, batch)[0] for batch in context.calibration]
        wanted = [execute(graph, batch)[0] for batch in context.calibration]
        return float((torch.cat(found) - torch.cat(wanted)).mean((0, 1)).abs().max())

    assert gap(better) < 1e-5 < gap(plain)


def test_layers_without_a_bias_get_one_where_that_is_asked() -> None:
    graph, context = chain()

    def lost(correct_bias: CorrectBias) -> tuple[list[bool], float]:
        new, _ = Quantize("static", "int3-g16", correct_bias=correct_bias)(graph, context)
        biased = [node.operand(2) is not None for node in new.nodes if node.op == "linear"]
        apart = execute(new, context.calibration[0])[0] - execute(graph, context.calibration[0])[0]
        return biased, float(apart.mean(0).abs().max())

    plain, better = lost(True), lost("all")
    assert plain[0] == [False] * 3
    assert better[0] == [True] * 3
    assert better[1] < 1e-3 * plain[1]


def chain() -> tuple[Graph, Context]:
    """Three linear layers in a row; calibrated on other data than the inputs."""
    graph = parse(
        """
        def graph(x: f32[600, 32], *, u: f32[48, 32], v: f32[32, 48], w: f32[32, 32]):
            a: f32[600, 48] = linear(x, u)
            b: f32[600, 32] = linear(a, v)
            y: f32[600, 32] = linear(b, w)
            return y
        """
    )
    generator = torch.Generator().manual_seed(1)
    for name, node in graph.params.items():
        graph.store[name] = torch.randn([int(n) for n in node.shape], generator=generator)
    mix = torch.randn(32, 32, generator=generator)
    seen, fresh = (torch.randn(600, 32, generator=generator) @ mix for _ in range(2))
    return graph, Context(inputs=[fresh], calibration=[[seen]])


def test_weights_make_up_for_the_errors_before_them() -> None:
    graph, context = chain()
    seen = context.calibration[0]

    def error(make_up: Any, on: Sequence[Any]) -> float:
        options = Quantize(None, weights="int3-g16", make_up=make_up, least=1)
        new, _ = options(graph, context)
        return difference(execute(new, on), execute(graph, on))

    shares = (0.0, 0.5, 1.0, "held-out")
    on_seen = {share: error(share, seen) for share in shares}
    assert on_seen[1.0] < on_seen[0.5] < on_seen[0.0]
    assert error(True, seen) == on_seen[1.0]
    on_fresh = {share: error(share, context.inputs) for share in shares}
    assert on_fresh[1.0] < 0.85 * on_fresh[0.0]
    assert on_fresh["held-out"] < 0.85 * on_fresh[0.0]


def test_weights_that_ops_compute_are_named() -> None:
    graph = parse("""
        def graph(x: f32[64, 32], *, v: f32[32, 32], s: f32[32, 1], w: f32[48, 32]):
            u: f32[32, 32] = mul(v, s)
            h: f32[64, 32] = linear(x, u)
            y: f32[64, 48] = linear(h, w)
            return y
        """)
    fill(graph, torch.Generator().manual_seed(0))
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(1))
    context = Context(inputs=[x], calibration=[[x]])
    _, remarks = Quantize("static")(graph, context)
    (left,) = (remark for remark in remarks if not remark.applied)
    assert left.site == "h" and left.text == "its weights are no parameter: u (mul) computes them"
    assert "FoldWeights" in left.do


def test_the_exact_stream_is_run_where_something_asks_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph, context = chain()
    pairs: list[tuple[bool, float]] = []
    whole = Rounder.visit

    def visit(self: Rounder, node: Node, decision: Decision, exact: Any, quantized: Any) -> Any:
        pairs.append((exact[0] is quantized[0], difference(list(quantized), list(exact))))
        return whole(self, node, decision, exact, quantized)

    monkeypatch.setattr(Rounder, "visit", visit)
    options = Quantize(None, weights="int3-g16", least=1)
    plain, _ = options(graph, context)
    assert [same for same, _ in pairs] == [True] * 3
    pairs.clear()
    # What is made up for is so little that the codes are the same.
    both, _ = replace(options, make_up=1e-12)(graph, context)
    assert [same for same, _ in pairs] == [True, False, False] and pairs[-1][1] > 0.01
    assert difference(execute(plain, context.inputs), execute(both, context.inputs)) < 1e-6


@pytest.mark.parametrize("rounding", [*SOLVERS, GPTQ("pivot"), KBest(4), CoordinateDescent(3)])
@pytest.mark.parametrize("weights", ["int3-g16", "int8-channel"])
def test_any_solver_rounds_any_format(rounding: str | Solver, weights: str) -> None:
    graph, context = chain()

    def error(rounding: str | Solver) -> float:
        new, _ = Quantize(None, weights=weights, rounding=rounding, least=1)(graph, context)
        return difference(execute(new, context.inputs), execute(graph, context.inputs))

    assert error(rounding) < 0.9 * error("nearest") or rounding == "nearest"


def test_scales_may_be_those_of_the_whole_range() -> None:
    graph, context = chain()

    def error(ranges: Any) -> float:
        options = Quantize(None, weights="int3-g16", rounding="nearest", ranges=ranges, least=1)
        new, _ = options(graph, context)
        return difference(execute(new, context.inputs), execute(graph, context.inputs))

    errors = {ranges: error(ranges) for ranges in ("range", "error", "output")}
    assert errors["error"] < errors["range"]
    assert errors["output"] < errors["range"]


@pytest.mark.parametrize("mode", [None, "static"])
@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_thin_matrices_make_up_for_what_codes_lose(mode: Any, rounding: str) -> None:
    graph, context = chain()

    def new(rank: int) -> Graph:
        options = Quantize(
            mode, weights="int3-g16", rounding=rounding, correct_bias=False, low_rank=rank, least=1
        )
        return options(graph, context)[0]

    def error(new: Graph) -> float:
        return difference(execute(new, context.inputs), execute(graph, context.inputs))

    errors = [error(new(rank)) for rank in (0, 4, 12)]
    assert errors[2] < 0.85 * errors[1] < 0.85 * 0.95 * errors[0]
    found = new(4)
    assert sum(node.op == "linear" for node in found.nodes) == 9
    assert [found[f"a_{part}"].op for part in ("low", "high", "whole")] == ["linear"] * 2 + ["add"]
    assert found["a_low"].args[0] is found["a"].args[0]
    assert found.store.type("a_low_weight_codes").dtype == torch.int8
    assert "a_whole" in {used.name for used in found["b"].args[0].inputs} | {
        found["b"].args[0].name
    }


def test_outliers_have_no_place_in_a_graph() -> None:
    graph, context = chain()
    with pytest.raises(InputError, match="outliers beside codes cannot be stored"):
        Quantize(None, rounding=CoordinateDescent(outliers=0.01), least=1)(graph, context)


def test_an_unknown_solver_is_refused() -> None:
    graph, context = sample()
    with pytest.raises(InputError, match="no solver is called 'optq'"):
        Quantize(None, rounding="optq")(graph, context)


@pytest.mark.parametrize(
    "number, text",
    [
        (float("nan"), "x is not finite"),
        (float("inf"), "x is not finite"),
        (1e30, "x is too great"),
    ],
)
@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_what_is_not_finite_is_refused_by_name(number: float, text: str, rounding: str) -> None:
    graph, context = chain()
    seen = context.calibration[0][0].clone()
    seen[3, :] = number
    with pytest.raises(InputError, match=f"{text}.* on the calibration data"):
        Quantize(None, rounding=rounding, least=1)(graph, Context([seen], [[seen]]))


def test_dead_channels_are_remarked_on() -> None:
    graph, context = chain()
    seen = context.calibration[0][0].clone()
    seen[:, [3, 30]] = 0
    _, remarks = Quantize(None, least=1)(graph, Context(inputs=[seen], calibration=[[seen]]))
    assert [remark.text for remark in remarks] == [
        "int8 weights of a; 2 dead channels rounded to the nearest",
        "int8 weights of b",
        "int8 weights of y",
    ]


def test_tables_may_have_a_format_of_their_own() -> None:
    graph, context = sample()
    options = Quantize(None, weights="int4-g16-asym", tables="int8-g32")
    assert options.formats == ("int4-g16-asym", "int8-g32")
    new, _ = options(graph, context)
    found = {node.name: node.attrs["format"] for node in new.nodes if node.op == "decode"}
    assert found == {"e_value": "int8-g32", "w_value": "int4-g16-asym", "u_value": "int4-g16-asym"}
    plain, _ = Quantize(None, weights="int4-g16-asym", tables="int8-channel")(graph, context)
    assert [node.name for node in plain.nodes if node.op == "dequantize"] == ["e_value"]
    assert Quantize("static").formats == ()


def test_asks_for_calibration_data() -> None:
    graph, context = sample()
    with pytest.raises(InputError, match="Quantize needs calibration data, and there is none"):
        Quantize("static")(graph, Context(inputs=context.inputs))


def test_small_weights_stay_as_they_are() -> None:
    graph, context = sample()
    _, remarks = Quantize("static", least=10_000).attempt(graph, context)
    assert [str(remark) for remark in remarks] == [
        "missed  a: w has only 2048 elements",
        "missed  y: u has only 3200 elements",
    ]


IN_STEPS = """
def graph(x: f32[64, 8], *, a: f32[8, 8], b: f32[8, 8], c: f32[8, 8], d: f32[8], e: f32[8, 8]):
    p: f32[64, 8] = linear(x, a)
    q: f32[64, 8] = linear(x, b)
    r: f32[64, 8] = mul(p, q)
    s: f32[64, 8] = linear(r, c, d)
    t: f32[64, 8] = relu(s)
    u: f32[64, 8] = linear(t, e)
    return u
"""


@pytest.mark.parametrize("make_up", [0.0, 0.5])
def test_in_place_weights_go_one_after_the_other_and_codes_are_the_same(make_up: float) -> None:
    graph = parse(IN_STEPS)
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator)
    x = torch.randn(64, 8, generator=generator)
    context = Context(inputs=[x], calibration=[[x], [x.flip(0)]])
    step = Quantize(None, weights="int4-g8", make_up=make_up, least=1)
    wanted, _ = step.attempt(graph, context)
    assert list(graph.params) == list("abcde")  # what was changed is a copy
    tensors = {name: weakref.ref(graph.store[name]) for name in "abcde"}
    alive: dict[str, str] = {}

    def progress(steps: Iterable[Any], _: str) -> Iterator[Any]:
        for node in steps:
            alive[node.name] = "".join(name for name in tensors if tensors[name]() is not None)
            yield node

    context.progress = progress
    new, _ = step.attempt(graph, context, in_place=True)
    assert new is graph
    assert alive["s"] == "abcde" and alive["t"] == alive["u"] == "cde"
    assert list(new.params) == list(wanted.params)
    assert all(torch.equal(new.store[name], wanted.store[name]) for name in new.params)


def test_in_place_readers_of_a_site_that_lie_apart_find_their_weights() -> None:
    graph = parse(
        "def graph(x: f32[64, 8], *, a: f32[8, 8], b: f32[8, 8], c: f32[8, 8]):\n"
        "    p = linear(x, a)\n    q = relu(p)\n    r = linear(q, b)\n    s = linear(x, c)\n"
        "    y = add(r, s)\n    return y"
    )
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator)
    context = Context(inputs=[x := torch.randn(64, 8, generator=generator)], calibration=[[x]])
    step = Quantize("static", least=1)
    wanted, _ = step.attempt(graph, context)
    new, _ = step.attempt(graph, context, in_place=True)
    assert all(torch.equal(new.store[name], wanted.store[name]) for name in new.params)


def test_what_groups_do_not_divide_is_remarked_on(traced: Callable[..., Graph]) -> None:
    graph = traced("llama")  # rows of 32 and of 48
    step = Quantize(None, "int4-g32", rounding="nearest", correct_bias=False, least=0)
    _, remarks = step(graph)
    found = [remark.text for remark in remarks if not remark.applied]
    assert found == [
        f"model_layers_{layer}_mlp_down_proj_weight is in int8 by the channel: "
        "groups of int4-g32 do not divide rows of 48"
        for layer in (0, 1)
    ]


TRANSPOSED = """
def graph(x: f32[2, 16, 6, 6], *, a: f32[32, 16, 3, 3], b: f32[32, 24, 4, 4], c: f32[24],
          g: f32[24, 12, 3, 3]):
    h: f32[2, 32, 6, 6] = conv2d(x, a, padding=(1, 1))
    r: f32[2, 32, 6, 6] = relu(h)
    u: f32[2, 24, 12, 12] = conv_transpose2d(r, b, c, stride=(2, 2), padding=(1, 1))
    y: f32[2, 24, 12, 12] = conv_transpose2d(u, g, padding=(1, 1), groups=2)
    return y
"""


@pytest.mark.parametrize("mode", ["static", "dynamic", None])
def test_weights_of_transposed_convolutions_get_codes_and_a_scale_for_each_output(
    mode: str | None,
) -> None:
    graph, generator = parse(TRANSPOSED), torch.Generator().manual_seed(0)
    fill(graph, generator)
    graph.store["b"] = graph.store["b"] * torch.logspace(0, -3, 24)[:, None, None]
    x = torch.randn(2, 16, 6, 6, generator=generator)
    new, remarks = Quantize(mode).attempt(graph, Context([x], [[x]]))  # type: ignore[arg-type]
    said = {remark.site: (remark.applied, remark.text) for remark in remarks}
    assert said["u"] == (True, "int8 weights; what it reads stays in floating point")
    codes, scale = new.store["b_codes"], new.store["b_scale"]
    assert codes.dtype == torch.int8 and scale.shape == (1, 24, 1, 1)
    assert torch.equal(codes.abs().amax((0, 2, 3)), torch.full((24,), 127, dtype=torch.int8))
    gap = (codes * scale - graph.store["b"]).abs()
    assert bool((gap <= 0.5001 * scale).all())
    assert said["y"] == (
        False,
        "g has its outputs in 2 groups, on no axis of their own that scales could be on; it stays "
        "in floating point",
    )
    assert "g" in new.params


def test_transposed_convolutions_stay_in_floats_where_that_is_chosen() -> None:
    graph, generator = parse(TRANSPOSED), torch.Generator().manual_seed(0)
    fill(graph, generator)
    choices = {"u": Choice(None, None)}
    step = Quantize(None, rounding="nearest", correct_bias=False, choices=choices)
    new, remarks = step(graph)
    assert "b" in new.params
    assert "it stays in floating point, as was chosen" in [r.text for r in remarks if r.site == "u"]
