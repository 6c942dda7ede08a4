"""Zeros that weights had before they became codes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from graphs import fill
from matrices import damage, layer

from regauge.ir import Graph, InputError, astype, parse
from regauge.ir.formats import named
from regauge.ir.interpret import execute, stored_value
from regauge.passes import Context, Quantize, Reconstruct, Sparsify
from regauge.passes.fitting import Fitter
from regauge.passes.manager import difference
from regauge.passes.patterns import named_pattern
from regauge.passes.quantization.solvers import (
    RANGES,
    SOLVERS,
    CoordinateDescent,
    Grid,
    Nearest,
    Solver,
)
from regauge.passes.quantization.zeros import KEPT
from regauge.passes.structure.sparsity.refit import least_squares, sweep

TEXT = """
def graph(x: f32[256, 32], *, w: f32[64, 32], c: f32[64], u: f32[32, 64]):
    a: f32[256, 64] = linear(x, w, c)
    r: f32[256, 64] = relu(a)
    y: f32[256, 32] = linear(r, u)
    return y
"""
CONVOLUTIONS = """
def graph(x: f32[4, 8, 8, 8], *, w: f32[16, 8, 3, 3], c: f32[16], u: f32[16, 16, 3, 3]):
    a: f32[4, 16, 8, 8] = conv2d(x, w, c, padding=(1, 1))
    r: f32[4, 16, 8, 8] = relu(a)
    y: f32[4, 16, 8, 8] = conv2d(r, u, padding=(1, 1))
    return y
"""
SOME: list[Solver | str] = [*SOLVERS, CoordinateDescent(start=None)]


def sample(text: str = TEXT) -> tuple[Graph, Context]:
    graph = parse(text)
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator, level=True)
    shape = [int(size) for size in graph.inputs[0].shape]
    mix = torch.randn(shape[1], shape[1], generator=generator)
    data = [
        torch.einsum("nc...,dc->nd...", torch.randn(shape, generator=generator), mix)
        for _ in range(2)
    ]
    return graph, Context(inputs=data[:1], calibration=[[part] for part in data])


def sparse(text: str = TEXT) -> tuple[Graph, Context]:
    graph, context = sample(text)
    return Sparsify(pattern="2:4")(graph, context)[0], context


def keeps(graph: Graph, new: Graph) -> bool:
    """Whether what the codes of contractions stand for is zero where weights were."""
    readers = [node for node in graph.nodes if node.op in ("linear", "conv2d")]
    pairs = [(graph.value(r.args[1]), stored_value(new, new[r.name].args[1])) for r in readers]
    return all(bool((value[was == 0] == 0).all()) for was, value in pairs)


def matrix(seed: int, pattern: str = "2:4") -> tuple[torch.Tensor, Any]:
    weight, hessian = layer(rows=24, columns=64, seed=seed)
    found = sweep(weight, hessian, named_pattern(pattern), 0.5)
    return least_squares(weight, hessian, found != 0, found), hessian


FORMATS = [
    "int8-channel",
    "int4-g16",
    "int3-g16-asym",
    "mxfp4",
    "nf4-g16",
    "ternary-g16",
    "fp8-e4m3",
]


@pytest.mark.parametrize("solver", SOME, ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_solvers_hold_zeros_and_move_their_errors(name: str, solver: Solver | str) -> None:
    weight, hessian = matrix(seed=1)
    form = named(name)
    grid = Grid.of(form, weight, RANGES["error"](form, weight, hessian)).holding(weight == 0)
    run = SOLVERS[solver] if isinstance(solver, str) else solver
    found = run.solve(weight, hessian, grid).values
    assert bool((found[weight == 0] == 0).all())
    torch.testing.assert_close(grid.codes(found).dequantize(), found)
    near = Nearest().solve(weight, hessian, grid).values
    if run.learns:  # with the same zeros
        assert damage(weight, found, hessian) < 0.97 * damage(weight, near, hessian)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=str)
def test_codes_of_channels_hold_them_too(solver: Solver, pairs: bool) -> None:
    weight, hessian = matrix(seed=2, pattern="rows")
    grid = Grid.channelwise(weight, hessian.diagonal, pairs=pairs).holding(weight == 0)
    found = solver.solve(weight, hessian, grid).values
    assert bool((found[weight == 0] == 0).all())
    near = Nearest().solve(weight, hessian, grid).values
    cost = [hessian.cost(part - weight, grid.damp) for part in (found, near)]
    assert bool((cost[0] <= cost[1] * (1 + 1e-9)).all())  # no row is worse


def test_what_is_aimed_at_beside_a_zero_is_made_up_for() -> None:
    weight, hessian = matrix(seed=3)
    aim = weight + 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    form = named("int6-g16")
    held = Grid.of(form, weight, form.fit(weight)).holding(weight == 0)
    found = SOLVERS["gptq"].solve(aim, hessian, held).values
    assert bool((found[weight == 0] == 0).all())
    cut = Nearest().solve(aim, hessian, held).values
    assert damage(aim, found, hessian) < 0.8 * damage(aim, cut, hessian)


def test_matrices_of_which_one_has_zeros_are_solved_together() -> None:
    one, _ = matrix(seed=4)
    other, _ = layer(rows=8, columns=64, seed=5)
    form = named("int4-g16-asym")
    grids = [Grid.of(form, part, form.fit(part)) for part in (one, other)]
    grids[0] = grids[0].holding(one == 0)
    stacked = Grid.stacked(grids)
    assert stacked is not None and stacked.held is not None
    assert int(stacked.held.sum()) == int((one == 0).sum())


@pytest.mark.parametrize(
    "name, text",
    [
        ("binary-channel", "no code of binary-channel is zero"),
        ("d4-channel", "codes of d4-channel are vectors"),
    ],
)
def test_a_format_that_cannot_hold_them_says_so(name: str, text: str) -> None:
    weight, _ = matrix(seed=1)
    form = named(name)
    with pytest.raises(InputError, match=text):
        Grid.of(form, weight, form.fit(weight)).holding(weight == 0)
    graph, context = sparse()
    new, remarks = Quantize(None, name)(graph, context)
    assert not keeps(graph, new)
    assert any(f"50 % of zeros in w do not stay: {text}" in remark.text for remark in remarks)


OPTIONS: list[dict[str, Any]] = [
    {"activations": "static"},
    {"activations": "dynamic"},
    {"weights": "int4-g16", "low_rank": 4},
    {"weights": "int4-g16-asym", "make_up": 1.0},
    {"make_up": "held-out", "ranges": "output", "weights": "int4-g16"},
    {"correct_bias": False},
]


@pytest.mark.parametrize("rounding", SOLVERS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_pattern_stays(options: dict[str, Any], rounding: str) -> None:
    graph, context = sparse()
    options = {"activations": None, "rounding": rounding} | options
    for pairs in (False, True):
        context = replace(context, pairs_in_16_bits=pairs)
        new, remarks = Quantize(**options)(graph, context)
        assert keeps(graph, new)
        assert any("the 50 % of zeros in w stay" in remark.text for remark in remarks)


@pytest.mark.parametrize("mode", [None, "static"])
def test_a_pattern_of_convolutions_stays(mode: str | None) -> None:
    graph, context = sparse(CONVOLUTIONS)
    new, _ = Quantize(mode)(graph, context)
    assert keeps(graph, new)


@pytest.mark.parametrize("method", ["steps", "block-ap", "flexround", "adaround"])
@pytest.mark.parametrize("weights", ["int3-g16-asym", "int8-channel"])
def test_learned_codes_of_zero_stay(method: Any, weights: str) -> None:
    graph, context = sparse()
    step = Reconstruct(None, weights, method=method, fitter=Fitter(steps=40), end_to_end=Fitter(20))
    new, remarks = step(graph, context)
    told = [remark.data for remark in remarks if "error_after" in remark.data]
    assert any(data["error_after"] < data["error_before"] for data in told)  # something is learned
    assert keeps(graph, new)


def test_a_solver_gains_with_the_same_zeros() -> None:
    graph, context = sparse()

    def error(rounding: str) -> float:
        new, _ = Quantize(None, "int4-g16", rounding=rounding, correct_bias=False)(graph, context)
        assert keeps(graph, new)
        return difference(execute(new, context.inputs), execute(graph, context.inputs))

    near = error("nearest")
    assert error("gptq") < 0.95 * near
    assert error("coordinate-descent") < 0.9 * near


def test_stray_zeros_of_a_dense_weight_are_free() -> None:
    graph, context = sample()
    for name in ("w", "u"):
        few = graph.store[name].clone()
        few.view(-1)[:: 1 + round(1 / KEPT)] = 0  # fewer than would be kept
        graph.store[name] = few
    found, asked, never = (
        step(graph, context)
        for step in (
            Quantize(None),
            Quantize(None, keep_zeros=0.0),
            Quantize(None, keep_zeros=None),
        )
    )
    for name, param in found[0].params.items():
        assert param.op == "param" and torch.equal(found[0].store[name], never[0].store[name])
    assert not keeps(graph, found[0]) and keeps(graph, asked[0])
    assert not any("zeros" in remark.text for remark in found[1])


def test_tables_keep_what_their_format_can() -> None:
    graph = parse(
        """
        def graph(t: i64[4], *, e: f32[50, 32]):
            y: f32[4, 32] = embedding(e, t)
            return y
        """
    )
    fill(graph, torch.Generator().manual_seed(0))
    graph.store["e"] = graph.store["e"] * (graph.store["e"] > 0)
    context = Context(inputs=[torch.arange(4)])
    for name in ("int4-g16-asym", "binary-channel"):
        step = Quantize(None, name, rounding="nearest", correct_bias=False)
        new, remarks = step(graph, context)
        zeros = stored_value(new, new["y"].args[0])[graph.store["e"] == 0] == 0
        assert bool(zeros.all()) == (name != "binary-channel")
        lost = any("of zeros in e do not stay" in remark.text for remark in remarks)
        assert lost == (name == "binary-channel")


def test_a_share_is_from_0_to_1() -> None:
    with pytest.raises(InputError, match="keep_zeros=2"):
        Quantize(None, keep_zeros=2)


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_in_half_precision_keep_zeros(dtype: torch.dtype, rounding: str) -> None:
    graph, context = sparse()
    graph, data = astype(graph, dtype), [[b[0].to(dtype)] for b in context.calibration]
    half = Context(inputs=data[0], calibration=data)
    new, _ = Quantize(None, weights="int4-g32", rounding=rounding)(graph, half)
    assert keeps(graph, new)
    assert stored_value(new, new["a"].args[1]).dtype == dtype
    assert difference(execute(new, half.inputs), execute(graph, half.inputs)) < 0.15
