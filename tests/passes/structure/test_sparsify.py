"""Zeros in weights: of which pattern, which, and what makes up for them."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from graphs import filled

from regauge.codegen.partition import divide
from regauge.ir import Graph, InputError, SiteError, astype
from regauge.ir.interpret import execute
from regauge.passes import Context, Quantize
from regauge.passes.budget import IntegerProgramming
from regauge.passes.manager import difference
from regauge.passes.patterns import NofM, Pattern, named_pattern
from regauge.passes.quantization.solvers import Hessian
from regauge.passes.structure.costs import Costs
from regauge.passes.structure.sparsity.rates import (
    Damage,
    ErdosRenyi,
    Layer,
    OneThreshold,
    RateDistortion,
    drop_point,
    essential,
    spread,
)
from regauge.passes.structure.sparsity.refit import DAMP, WORTH, least_squares, search, sweep
from regauge.passes.structure.sparsity.sparsify import Sparsify
from regauge.passes.structure.sparsity.zeros import METHODS, Method, Recovery

TWO = """
def graph(x: f64[512, 16], *, a: f64[32, 16], c: f64[32], b: f64[8, 32], d: f64[8]):
    h: f64[512, 32] = linear(x, a, c)
    z: f64[512, 32] = relu(h)
    y: f64[512, 8] = linear(z, b, d)
    return y
"""
CONVOLUTIONS = """
def graph(x: f64[8, 8, 6, 6], *, a: f64[16, 8, 3, 3], g: f64[16, 1, 3, 3], o: f64[8, 16, 1, 1]):
    h: f64[8, 16, 6, 6] = conv2d(x, a, padding=(1, 1))
    z: f64[8, 16, 6, 6] = relu(h)
    s: f64[8, 16, 6, 6] = conv2d(z, g, padding=(1, 1), groups=16)
    y: f64[8, 8, 6, 6] = conv2d(s, o)
    return y
"""


def mixed(text: str = TWO, seed: int = 0) -> tuple[Graph, Context]:
    """A graph whose inputs are alike, and of unequal size: so that it matters what goes."""
    graph, inputs = filled(text, seed)
    generator = torch.Generator().manual_seed(seed)
    size = inputs[0].shape[-1] if inputs[0].dim() == 2 else inputs[0].shape[1]
    mix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    mix = mix * torch.logspace(-1, 1, size, dtype=torch.float64)[:, None]
    axis = -1 if inputs[0].dim() == 2 else 1
    inputs = [(inputs[0].movedim(axis, -1) @ mix.T).movedim(-1, axis).contiguous()]
    return graph, Context(inputs=inputs, calibration=[[part] for part in inputs[0].chunk(2)])


def error(graph: Graph, other: Graph, context: Context) -> float:
    return difference(execute(graph, context.inputs), execute(other, context.inputs))


def layer(seed: int = 0, rows: int = 3, n: int = 6) -> tuple[torch.Tensor, Hessian]:
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(50, n, generator=generator, dtype=torch.float64)
    data = data @ torch.randn(n, n, generator=generator, dtype=torch.float64)
    weight = torch.randn(rows, n, generator=generator, dtype=torch.float64)
    return weight, Hessian(data.T @ data)


# -- patterns ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_masks_have_the_pattern(method: Method) -> None:
    graph, context = mixed()
    recover = "none" if method == "magnitude" else "least-squares"

    def made(pattern: str, remove: float | None) -> torch.Tensor:
        step = Sparsify(remove=remove, pattern=pattern, score=method, recover=recover, least=1)
        return step(graph, context)[0].store["a"] != 0

    assert made("rows", 0.25).sum(1).tolist() == [12] * 32
    assert int(made("layer", 0.3).sum()) == 512 - round(0.3 * 512)
    assert made("2:4", None).unflatten(1, (-1, 4)).sum(-1).eq(2).all()
    assert made("1:8", None).unflatten(1, (-1, 8)).sum(-1).eq(1).all()
    blocks = made("4x8", 0.5).unflatten(1, (-1, 8)).unflatten(0, (-1, 4)).double().mean((1, 3))
    assert sorted(blocks.flatten().tolist()) == [0.0] * 8 + [1.0] * 8


@pytest.mark.parametrize("recover", ["none", "least-squares"])
@pytest.mark.parametrize("score", ["magnitude", "wanda", "sweep"])
def test_no_zero_is_negative(score: Method, recover: Recovery) -> None:
    graph, context = mixed()
    found, _ = Sparsify(0.5, score=score, recover=recover, least=1)(graph, context)
    for name in ("a", "b"):
        assert not found.store[name].signbit()[found.store[name] == 0].any()


@pytest.mark.parametrize("pattern", ["rows", "layer", "2:4", "1x2", "2x1"])
@pytest.mark.parametrize("remove", [0.5])
def test_a_mask_keeps_the_most_that_its_pattern_allows(pattern: str, remove: float) -> None:
    worth = torch.rand(2, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    kind = named_pattern(pattern)
    found = kind.mask(worth, remove)
    best = 0.0
    for bits in itertools.product([False, True], repeat=8):
        stays = torch.tensor(bits).view(2, 4)
        if _obeys(kind, stays):
            best = max(best, float((worth * stays).sum()))
    assert _obeys(kind, found)
    assert float((worth * found).sum()) == pytest.approx(best)


def _obeys(pattern: Pattern, stays: torch.Tensor) -> bool:
    """Half of 2 x 4 stays, in the pattern; written down apart from ``mask``."""
    match str(pattern):
        case "rows" | "2:4":
            return stays.sum(1).tolist() == [2, 2]
        case "layer":
            return int(stays.sum()) == 4
        case "1x2":
            pairs = stays.unflatten(1, (2, 2))
            return bool((pairs[..., 0] == pairs[..., 1]).all()) and int(stays.sum()) == 4
        case _:
            return bool((stays[0] == stays[1]).all()) and int(stays.sum()) == 4


def test_a_convolution_has_its_pattern_along_its_inputs() -> None:
    graph, context = mixed(CONVOLUTIONS)
    sparse, remarks = Sparsify(pattern="2:4", least=1)(graph, context)
    stays = sparse.store["a"] != 0  # [O, I, 3, 3]
    assert stays.unflatten(1, (-1, 4)).sum(2).eq(2).all()
    assert any("a kernel for each group of channels" in r.text for r in remarks)
    torch.testing.assert_close(sparse.store["g"], graph.store["g"])


# -- which weights, and what makes up for them -------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_least_squares_is_the_best_for_its_zeros(seed: int) -> None:
    weight, hessian = layer(seed)
    stays = WORTH["wanda"](weight, hessian) > 5.0
    found = least_squares(weight, hessian, stays)
    matrix = hessian.damped(DAMP)
    for row, kept, got in zip(weight, stays, found, strict=True):
        best = torch.zeros_like(row)
        some = matrix[kept][:, kept]
        best[kept] = torch.linalg.solve(some, (matrix @ row)[kept])
        torch.testing.assert_close(got, best, rtol=1e-6, atol=1e-6)


def best_of_all(weight: torch.Tensor, hessian: Hessian, keep: int) -> float:
    """The least cost with so many weights in each row, by trying all."""
    total = 0.0
    for row in weight:
        costs: list[float] = []
        for kept in itertools.combinations(range(len(row)), keep):
            stays = torch.zeros(1, len(row), dtype=torch.bool)
            stays[0, list(kept)] = True
            new = least_squares(row[None], hessian, stays)
            costs.append(float(hessian.cost(new - row, DAMP)))
        total += min(costs)
    return total


def test_a_search_comes_nearest_to_the_best_zeros() -> None:
    """Over some random layers, beside the best zeros of all that there are."""
    rows, half = named_pattern("rows"), 0.5
    sums: dict[str, float] = {}
    best = 0.0
    for seed in range(12):
        weight, hessian = layer(seed, n=8)
        best += best_of_all(weight, hessian, 4)
        wanda = rows.mask(WORTH["wanda"](weight, hessian), half)
        magnitude = rows.mask(WORTH["magnitude"](weight, hessian), half)
        swept, searched = sweep(weight, hessian, rows, half), search(weight, hessian, rows, half)
        for name, new in {
            "magnitude": weight * magnitude,
            "wanda": weight * wanda,
            "wanda, made up for": least_squares(weight, hessian, wanda),
            "sweep": least_squares(weight, hessian, swept != 0),
            "search": least_squares(weight, hessian, searched != 0),
        }.items():
            sums[name] = sums.get(name, 0.0) + float(hessian.cost(new - weight, DAMP).sum())
    assert best * (1 - 1e-9) <= sums["search"] < 1.5 * best
    assert sums["search"] < sums["wanda, made up for"] < sums["wanda"] < sums["magnitude"]
    assert sums["search"] < sums["sweep"] < sums["wanda"]


def test_the_worth_of_a_weight_is_what_is_lost_with_it_alone() -> None:
    weight, hessian = layer()
    damped = Hessian(hessian.damped(DAMP))
    for worth, recover in (
        (WORTH["wanda"](weight, damped), False),
        (WORTH["obs"](weight, hessian), True),
    ):
        for i, j in itertools.product(range(3), range(6)):
            stays = torch.ones(1, 6, dtype=torch.bool)
            stays[0, j] = False
            row = weight[i : i + 1]
            new = least_squares(row, hessian, stays) if recover else row * stays
            lost = float(hessian.cost(new - row, DAMP))
            assert float(worth[i, j]) == pytest.approx(lost, rel=1e-6)


@pytest.mark.parametrize("pattern", ["rows", "layer", "2:4", "4x4"])
@pytest.mark.parametrize("text", [TWO, CONVOLUTIONS], ids=["linear", "convolutions"])
def test_what_stays_makes_up_for_what_goes(text: str, pattern: str) -> None:
    graph, context = mixed(text)
    step = Sparsify(pattern=pattern, score="wanda", least=1)
    found = {
        name: error(one(graph, context)[0], graph, context)
        for name, one in {
            "magnitude": replace(step, score="magnitude", recover="none"),
            "wanda": replace(step, recover="none"),
            "made up": step,
        }.items()
    }
    assert found["made up"] < found["wanda"] < found["magnitude"]


def test_a_bias_takes_up_the_mean() -> None:
    graph, context = mixed()
    sparse, _ = Sparsify(0.75, least=1, score="wanda")(graph, context)
    for name in ("h", "y"):
        values = [_value(one, context, name).mean(0) for one in (sparse, graph)]
        if name == "h":
            torch.testing.assert_close(*values, rtol=1e-6, atol=1e-6)
    plain, _ = Sparsify(0.75, least=1, score="wanda", recover="none")(graph, context)
    torch.testing.assert_close(plain.store["c"], graph.store["c"])


def _value(graph: Graph, context: Context, name: str) -> torch.Tensor:
    found: dict[str, torch.Tensor] = {}
    execute(graph, context.inputs, tap=lambda node, value: found.update({node.name: value}))
    return found[name]


def test_later_layers_see_the_zeros_before_them() -> None:
    """The second layer is fitted to what the sparse first one gives."""
    graph, context = mixed()
    sparse, _ = Sparsify(0.5, score="wanda", least=1)(graph, context)
    stays = sparse.store["b"] != 0
    read = _value(sparse, context, "z")
    centered = read - read.mean(0)
    matrix = Hessian(centered.T @ centered)
    wanted = least_squares(graph.store["b"], matrix, stays)
    torch.testing.assert_close(sparse.store["b"], wanted, rtol=1e-5, atol=1e-6)


def test_nothing_goes_where_nothing_is_to() -> None:
    graph, context = mixed()
    same, _ = Sparsify(0.0, least=1).attempt(graph, context)
    assert str(same) == str(graph)
    torch.testing.assert_close(same.store["a"], graph.store["a"], rtol=0, atol=0)


# -- how many of each layer --------------------------------------------------------------------


def all_layers(graph: Graph) -> list[Layer]:
    return [
        Layer(node, node.args[1], tuple(graph.value(node.args[1]).shape))
        for node in graph.nodes
        if node.op == "linear"
    ]


@pytest.mark.parametrize("rates", [ErdosRenyi(), OneThreshold()], ids=str)
@pytest.mark.parametrize("remove", [0.2, 0.5, 0.9])
def test_rates_keep_to_the_whole(rates: ErdosRenyi | OneThreshold, remove: float) -> None:
    graph, context = mixed()
    found = all_layers(graph)
    parts = rates.divide(graph, context, found, named_pattern("layer"), remove)
    total = sum(one.size for one in found)
    assert sum(parts[one.name] * one.size for one in found) / total == pytest.approx(
        remove, abs=2e-3
    )


def test_one_threshold_over_all_layers() -> None:
    graph, context = mixed()
    graph.store["b"] = 3 * graph.store["b"]
    step = Sparsify(0.5, pattern="layer", score="magnitude", recover="none", rates="magnitude")
    sparse, _ = replace(step, least=1)(graph, context)
    gone = [graph.store[n][sparse.store[n] == 0].abs().max() for n in ("a", "b")]
    left = [graph.store[n][sparse.store[n] != 0].abs().min() for n in ("a", "b")]
    assert max(gone) <= min(left)


def test_rate_distortion_is_the_best_sum_of_what_was_measured() -> None:
    graph, context = mixed()
    graph.store["b"][:, 8:] *= 1e-3  # of which most can go
    found, pattern = all_layers(graph), named_pattern("layer")
    rates = RateDistortion(steps=5)
    problem = rates.problem(graph, context, found, pattern, 0.37)
    least = min(
        problem.total(problem.damage, (i, j))
        for i, j in itertools.product(range(len(rates.parts)), repeat=2)
        if problem.keeps((i, j))
    )
    parts = rates.divide(graph, context, found, pattern, 0.37)
    chosen = [rates.parts.index(parts[one.name]) for one in found]
    assert problem.keeps(chosen)
    assert problem.total(problem.damage, chosen) == pytest.approx(least)
    assert parts["b"] > parts["a"]
    exact = RateDistortion(IntegerProgramming(), steps=5)
    assert exact.divide(graph, context, found, pattern, 0.37) == parts


POSITIONS = """
def graph(x: f64[8, 8, 12, 12], *, a: f64[16, 8, 3, 3], b: f64[16, 16, 3, 3], o: f64[32, 16]):
    h: f64[8, 16, 12, 12] = conv2d(x, a, padding=(1, 1))
    z: f64[8, 16, 12, 12] = relu(h)
    s: f64[8, 16, 4, 4] = conv2d(z, b, stride=(3, 3), padding=(1, 1))
    r: f64[8, 16, 4, 4] = relu(s)
    m: f64[8, 16] = mean(r, dim=(2, 3))
    y: f64[8, 32] = linear(m, o)
    return y
"""


@pytest.mark.parametrize("remove", [0.4, 0.7])
def test_products_count_by_the_positions_of_a_convolution(remove: float) -> None:
    graph, context = mixed(POSITIONS)
    context = replace(context, calibration=[context.inputs])
    whole = Costs(graph, [], context.inputs).of(graph.nodes)

    def left(rates: RateDistortion) -> tuple[float, float]:
        """Of the products, and of the weights."""
        step = Sparsify(remove, "layer", score="magnitude", recover="none", rates=rates, least=1)
        sparse, remarks = step(graph, context)
        costs = Costs(graph, [], context.inputs)
        products = sum(
            float((sparse.store[node.args[1].name] != 0).double().mean()) * costs.of([node])
            for node in graph.nodes
            if node.op in ("conv2d", "linear")
        )
        part = f"of the products of all that may lose some {100 * (1 - products / whole):.3g} %"
        assert (part in remarks[-1].text) == (rates.of == "macs")
        there = [(sparse.store[name] != 0).flatten() for name in ("a", "b", "o")]
        return products / whole, float(torch.cat(there).double().mean())

    products, weights = left(RateDistortion(of="macs"))
    assert products <= 1 - remove < weights  # the first layer has most of the products
    assert left(RateDistortion())[1] <= 1 - remove


def test_the_most_products_that_can_go_are_told() -> None:
    graph, context = mixed(POSITIONS)
    context = replace(context, calibration=[context.inputs])
    step = Sparsify(0.995, "layer", rates=RateDistortion(of="macs"), least=1)
    with pytest.raises(InputError) as told:
        step(graph, context)
    found = str(told.value)
    assert "cannot be met: the least possible is" in found and "products" in found


def test_the_curve_of_a_layer_is_what_its_zeros_change() -> None:
    graph, context = mixed()
    found, pattern = all_layers(graph), named_pattern("layer")
    problem = RateDistortion(steps=4).problem(graph, context, found, pattern, 0.5)
    one = Sparsify({"b": 0.5}, "layer", "magnitude", "none", least=1)(graph, context)[0]
    wanted = torch.cat([execute(graph, batch)[0].flatten(0, -2) for batch in context.calibration])
    spread = (wanted - wanted.mean(0)).norm() / wanted.norm()
    found = (error(one, graph, context) / spread) ** 2
    assert float(problem.damage[1, 2]) == pytest.approx(float(found), rel=1e-9)
    assert (problem.damage.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("at", [0.3, 0.5, 0.8])
def test_the_drop_point_of_a_corner_is_the_corner(at: float) -> None:
    parts = [i / 20 for i in range(20)]
    curve = [max(part - at, 0.0) + 0.01 * part for part in parts]
    assert drop_point(parts, curve) == at
    assert drop_point([*parts, 0.96, 0.97, 0.98], [*curve, 5.0, 9.0, 0.5]) == at
    assert drop_point(parts, [0.0] * 20) == 0.95
    assert drop_point(parts, [0.0, *[2.0] * 19]) == 0.0


def test_what_all_outputs_have_in_common_is_no_measure_of_a_change() -> None:
    """Beside a large bias the outputs' change seems small until nothing is left of them."""
    graph, context = mixed()
    plain = Damage(graph, context, 2, "Sparsify")
    graph.store["d"] = graph.store["d"] + 100.0
    moved = Damage(graph, context, 2, "Sparsify")
    assert moved.power == pytest.approx(plain.power, rel=1e-9)
    assert plain.power < 0.9 * sum(float(y.square().sum()) for (y,) in plain.wanted)


@pytest.mark.parametrize(
    ("outputs", "wanted"),
    [
        ([torch.tensor([[3.0, 4.0]])], 25.0),  # one row: its own size
        ([torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 4.0]])], 2.0),
        ([torch.tensor(3.0), torch.tensor(1.0)], 2.0),
        ([torch.tensor([3.0, 1.0])], 2.0),
        ([torch.tensor([[[[3.0, 1.0]]]])], 2.0),  # one channel
        ([torch.tensor([[3.0]]), torch.tensor([[1.0, 2.0]])], 14.0),  # as wide as texts are long
    ],
)
def test_what_outputs_differ_by(outputs: list[torch.Tensor], wanted: float) -> None:
    assert spread(outputs) == pytest.approx(wanted)


def test_essential_is_where_the_outputs_change() -> None:
    graph, context = mixed()
    generator = torch.Generator().manual_seed(0)
    for name in ("a", "b"):
        value = graph.store[name]
        tiny = torch.rand(value.shape, generator=generator).argsort(1) < 0.6 * value.shape[1]
        graph.store[name] = torch.where(tiny, value * 1e-4, value.sign())
    knee = essential(graph, context, all_layers(graph), named_pattern("rows"))
    assert knee.part == pytest.approx(0.6, abs=0.05)
    sparse, remarks = Sparsify("essential", least=1, score="wanda")(graph, context)
    assert "changes the outputs sharply" in remarks[-1].text
    assert error(sparse, graph, context) < 1e-2


# -- what comes after --------------------------------------------------------------------------


def test_symmetric_codes_keep_zeros() -> None:
    graph, context = mixed()
    sparse, _ = Sparsify(pattern="2:4", least=1)(graph, context)
    step = Quantize(None, rounding="nearest", correct_bias=False, least=1)
    codes, _ = step(sparse, context)
    for name in ("a", "b"):
        (stored,) = (
            v for k, v in codes.store.items() if k.startswith(name) and v.dtype == torch.int8
        )
        assert bool((stored[sparse.store[name] == 0] == 0).all())


@pytest.mark.parametrize("form", ["int4-g8", "int4-g8-asym", "fp4-e2m1-g8", "int8-asym"])
def test_formats_whose_grid_holds_zero_keep_zeros(form: str) -> None:
    graph, context = mixed()
    sparse, _ = Sparsify(pattern="2:4", least=1)(graph, context)
    step = Quantize(None, form, rounding="nearest", correct_bias=False, least=1)
    codes, _ = step(sparse, context)
    found: dict[str, torch.Tensor] = {}
    execute(codes, context.inputs, tap=lambda node, value: found.update({node.name: value}))
    reader = codes["h"]
    assert bool((found[reader.args[1].name][sparse.store["a"] == 0] == 0).all())


@pytest.mark.parametrize("kept", [0.125, None])
def test_solvers_of_rounding_hold_zeros_unless_they_are_told_not_to(kept: float | None) -> None:
    """GPTQ would make up for errors in any column, also where a weight was zero."""
    graph, context = mixed()
    sparse, _ = Sparsify(pattern="2:4", least=1)(graph, context)
    codes, _ = Quantize(None, "int4-g8", least=1, keep_zeros=kept)(sparse, context)
    found: dict[str, torch.Tensor] = {}
    execute(codes, context.inputs, tap=lambda node, value: found.update({node.name: value}))
    filled = found[codes["h"].args[1].name][sparse.store["a"] == 0] != 0
    assert bool(filled.any()) == (kept is None)


@pytest.mark.parametrize(("pattern", "region"), [("2:4", "SemiSparse"), ("32x32", "BlockSparse")])
def test_a_kernel_takes_the_zeros(pattern: str, region: str) -> None:
    text = """
def graph(x: f64[512, 128], *, a: f64[64, 128]):
    y: f64[512, 64] = linear(x, a)
    return y
"""
    graph, context = mixed(text)
    sparse, _ = Sparsify(0.5 if region == "BlockSparse" else None, pattern, "wanda")(graph, context)
    found = divide(astype(sparse, torch.bfloat16), capability=90)
    assert [type(part.region).__name__ for part in found.placed] == [region]


# -- what cannot be ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"remove": 1.0}, "is not the part of the weights"),
        ({"remove": -0.1}, "is not the part of the weights"),
        ({"remove": float("nan")}, "is not the part of the weights"),
        ({"remove": {"a": 2.0}}, "is not the part of the weights"),
        ({"remove": "half"}, "is not the part of the weights"),
        ({"score": "size"}, "there is no score 'size'"),
        ({"recover": "hope"}, "nothing recovers by 'hope'"),
        ({"score": "wanda", "recover": "sweep"}, "for the zeros that it finds"),
        ({"pattern": "diagonal"}, "there is no pattern 'diagonal'"),
        ({"pattern": "4:4"}, "4 of each 4 is no pattern"),
        ({"pattern": "0:4"}, "0 of each 4 is no pattern"),
        ({"pattern": "0x4"}, "no blocks of 0 x 4"),
        ({"pattern": "2:4", "remove": 0.6}, "is not what the pattern 2:4 leaves out"),
        ({"pattern": "2:4", "rates": "erk"}, "takes the same part of each layer"),
        ({"rates": "random"}, "there is no rule for rates 'random'"),
        ({"remove": "essential", "rates": "erk"}, "found for the same part"),
        ({"least": -1}, "least=-1 is not what Sparsify takes"),
        ({"make_up": 2.0}, "make_up=2.0 is not.*\n.*from 0 to 1 or 'held-out'"),
    ],
)
def test_refuses(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Sparsify(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["rows", "layer", "4x4"])
@pytest.mark.parametrize("rates", ["even", "erk", "magnitude"])
def test_what_would_leave_no_weight_is_refused_with_the_most_that_can_go(
    pattern: str, rates: str
) -> None:
    graph, context = mixed()
    step = Sparsify(0.9999, pattern, "magnitude", "none", rates, least=1)
    with pytest.raises(InputError, match=r"leaves none of the \d+ (weights|blocks)") as raised:
        step(graph, context)
    most = float(raised.value.do.partition("=")[2].partition(",")[0])
    sparse, _ = replace(step, remove=most)(graph, context)
    for name in ("a", "b"):
        rows = sparse.store[name] if pattern == "rows" else sparse.store[name].reshape(1, -1)
        assert bool((rows != 0).any(1).all())
    with pytest.raises(InputError, match="leaves none of the"):
        replace(step, remove={"a": 0.9999}, rates="even")(graph, context)


def test_needs_data_unless_it_goes_by_size() -> None:
    graph, context = mixed()
    alone = Context(inputs=context.inputs)
    with pytest.raises(InputError, match="needs calibration data"):
        Sparsify(0.5, least=1)(graph, alone)
    sparse, _ = Sparsify(0.5, score="magnitude", recover="none", least=1)(graph, alone)
    assert int((sparse.store["a"] == 0).sum()) == 256


def test_names_a_weight_that_is_not_there() -> None:
    graph, context = mixed()
    with pytest.raises(InputError, match="remove names w, which is no weight"):
        Sparsify({"w": 0.5}, least=1)(graph, context)


@pytest.mark.parametrize(
    ("options", "says", "help"),
    [
        ({"least": 1}, "names aa, which is no weight that can lose any$", "names such as a, b"),
        ({"least": 1, "protect": ("b",)}, "can lose any$", "names such as a$"),
        ({}, "can lose any: a has only 512 elements", "other options: none of them can"),
    ],
)
def test_names_the_weights_that_are_there_beside_one_that_is_not(
    options: dict[str, Any], says: str, help: str
) -> None:
    graph, context = mixed()
    by_name: tuple[dict[str, Any], ...] = ({"pattern": {"aa": "2:4"}}, {"remove": {"aa": 0.5}})
    for given in by_name:
        with pytest.raises(InputError) as raised:
            Sparsify(**{**given, **options})(graph, context)
        assert re.search(says, str(raised.value).partition("\n")[0])
        assert re.search(help, raised.value.do)


@pytest.mark.parametrize(
    ("pattern", "options", "says"),
    [
        ("2:4", {"protect": ("a",)}, "a is protected"),
        ("2:4", {"sites": ("y",)}, "it is at none of the sites"),
        ("2:5", {}, "groups of 5 do not divide its 16 inputs; 4, 8 or 16 do"),
    ],
)
def test_says_why_a_weight_that_is_named_can_lose_none(
    pattern: str, options: dict[str, Any], says: str
) -> None:
    graph, context = mixed()
    step = Sparsify(pattern={"a": pattern}, least=1, **options)
    with pytest.raises(InputError, match=f"pattern names a, .* any: .*{says}"):
        step(graph, context)


def test_what_a_pattern_does_not_divide_stays_dense() -> None:
    text = TWO.replace("16]", "18]")
    graph, context = mixed(text)
    sparse, remarks = Sparsify(pattern="2:4", least=1)(graph, context)
    torch.testing.assert_close(sparse.store["a"], graph.store["a"], rtol=0, atol=0)
    (dense,) = (r for r in remarks if r.site == "h")
    assert dense.text == "a stays dense: groups of 4 do not divide its 18 inputs; 3, 6 or 9 do"
    assert int((sparse.store["b"] == 0).sum()) == 128


def test_a_weight_with_two_readers_stays() -> None:
    text = TWO.replace("linear(z, b, d)", "linear(z, b, d)\n    w: f64[512, 8] = linear(h, b)")
    text = text.replace("return y", "v: f64[512, 8] = add(y, w)\n    return v")
    graph, context = mixed(text)
    sparse, remarks = Sparsify(0.5, least=1)(graph, context)
    torch.testing.assert_close(sparse.store["b"], graph.store["b"], rtol=0, atol=0)
    assert {r.text for r in remarks if not r.applied} == {
        "b is also read by w", "b is also read by y"
    }  # fmt: skip


def test_protects_and_finds_by_name() -> None:
    graph, context = mixed()
    for step in (Sparsify(0.5, least=1, protect=("b",)), Sparsify(0.5, least=1, sites=("h",))):
        sparse, _ = step(graph, context)
        assert [int((sparse.store[name] == 0).sum()) for name in ("a", "b")] == [256, 0]
    with pytest.raises(SiteError):
        Sparsify(0.5, least=1, sites=("z2",))(graph, context)


@pytest.mark.parametrize("score", METHODS)
def test_dead_and_equal_inputs(score: Method) -> None:
    """Inputs that are zero throughout, and two that are the same: the Hessian is singular."""
    graph, context = mixed()
    batches: list[list[torch.Tensor]] = []
    for (part,) in context.calibration:
        part = part.clone()
        part[:, 3], part[:, 5] = 0, part[:, 4]
        batches.append([part])
    singular = Context(inputs=batches[0], calibration=batches)
    sparse, remarks = Sparsify(0.5, score=score, least=1)(graph, singular)
    assert all(bool(value.isfinite().all()) for value in sparse.store.values())
    assert any("1 of its inputs were never seen" in r.text for r in remarks)


def test_too_few_rows_make_up_for_nothing() -> None:
    graph, context = mixed()
    few = Context(inputs=context.inputs, calibration=[[context.inputs[0][:10]]])
    sparse, remarks = Sparsify(0.5, least=1)(graph, few)
    assert any("10 rows say too little of 16 inputs" in r.text for r in remarks)
    kept = sparse.store["a"] != 0
    torch.testing.assert_close(sparse.store["a"][kept], graph.store["a"][kept])


def test_n_of_m_as_a_value() -> None:
    graph, context = mixed()
    named, _ = Sparsify(pattern="2:4", least=1, score="wanda")(graph, context)
    given, _ = Sparsify(pattern=NofM(2, 4), least=1, score="wanda")(graph, context)
    torch.testing.assert_close(named.store["a"], given.store["a"], rtol=0, atol=0)
