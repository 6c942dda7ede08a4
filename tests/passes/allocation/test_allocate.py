"""Budgets are kept, optima are optima, and what was chosen is what is in the graph."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from graphs import fill

from regauge.ir import Graph, InputError, parse
from regauge.ir.interpret import execute
from regauge.passes import Allocate, Budget, Choice, Context, Quantize
from regauge.passes.allocation import (
    Bisection,
    Candidates,
    Damages,
    DynamicProgramming,
    Gradient,
    Greedy,
    IntegerProgramming,
    LayerRelevance,
    Measured,
    Problem,
    Score,
    Solver,
    Threshold,
)
from regauge.passes.manager import difference

TEXT = """
def graph(t: i64[8, 6], *, e: f32[40, 32], q: f32[64, 32], k: f32[64, 32], u: f32[32, 64],
          v: f32[48, 32], s: f32[4, 32]):
    x: f32[8, 6, 32] = embedding(e, t)
    a: f32[8, 6, 64] = linear(x, q)
    b: f32[8, 6, 64] = linear(x, k)
    c: f32[8, 6, 64] = mul(a, b)
    d: f32[8, 6, 32] = linear(c, u)
    r: f32[8, 6, 32] = add(x, d)
    y: f32[8, 6, 48] = linear(r, v)
    z: f32[8, 6, 4] = linear(r, s)
    return y, z
"""
FORMATS = ("int2-g16-asym", "int4-g16-asym", "int8-g16-asym")
SOLVERS = [Threshold(), Greedy(), DynamicProgramming(), IntegerProgramming()]


def sample() -> tuple[Graph, Context]:
    graph = parse(TEXT)
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator, level=True)
    graph.store["u"] = graph.store["u"] * 0.03  # so a, b and d matter little to the outputs
    batches = [[torch.randint(0, 40, (8, 6), generator=generator)] for _ in range(2)]
    return graph, Context(batches[0], batches)


def random_problem(seed: int, limited: Any = "cost", part: float = 0.5) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(7, 1, generator=generator, dtype=torch.float64) + 0.1
    cost = size * torch.tensor([2.0, 3.0, 5.0, 8.0]).double()
    scale = torch.rand(7, 1, generator=generator, dtype=torch.float64) ** 4 * size
    noise = torch.rand(7, 4, generator=generator, dtype=torch.float64) + 0.5
    damage = scale * noise * torch.tensor([64.0, 16.0, 1.0, 0.02]).double()
    damage[2, 1], cost[2, 1] = torch.inf, torch.inf  # a choice that a unit does not have
    table = cost if limited == "cost" else damage
    low = float(table.amin(1).sum())
    high = float(torch.where(table.isfinite(), table, 0).amax(1).sum())
    limit = low + part * (high - low) * (1.0 if limited == "cost" else 0.05)
    names = tuple(f"u{i}" for i in range(7))
    return Problem(names, damage, cost, limit, limited, (" bits", 1.0))


def optimum(problem: Problem) -> float:
    """By trying everything."""
    value, used = torch.zeros(1).double(), torch.zeros(1).double()
    for objective, constraint in zip(problem.objective, problem.constraint, strict=True):
        value = (value[:, None] + objective).flatten()
        used = (used[:, None] + constraint).flatten()
    return float(value[used <= problem.limit].min())


@pytest.mark.parametrize("limited", ["cost", "damage"])
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_solvers_keep_to_the_limit_and_come_near_the_optimum(solver: Solver, limited: str) -> None:
    excess: list[float] = []
    for seed in range(4):
        problem = random_problem(seed, limited)
        chosen = solver.solve(problem)
        assert problem.keeps(chosen)
        excess.append(problem.total(problem.objective, chosen) / optimum(problem))
    if isinstance(solver, IntegerProgramming):
        assert excess == pytest.approx([1.0] * 4, abs=1e-6)
    near = 1.02 if isinstance(solver, (DynamicProgramming, IntegerProgramming)) else 1.5
    assert max(excess) < near
    assert min(excess) > 1 - 1e-9


def test_the_least_is_told_where_a_budget_cannot_be_met() -> None:
    problem = random_problem(0, part=-0.1)
    least = float(problem.cost.amin(1).sum())
    with pytest.raises(InputError, match="bits cannot be met: the least possible is") as caught:
        problem.check()
    assert f"{least:.4g}" in str(caught.value)
    random_problem(0, part=0.0).check()  # the least itself can be
    for solver in SOLVERS:
        tight = random_problem(0, part=0.0)
        assert solver.solve(tight) == tight.least


def test_greedy_counts_errors_that_cancel() -> None:
    # The errors of the first two units are opposite: both in few bits do no damage at all.
    projections = torch.zeros(3, 2, 4, dtype=torch.float64)
    projections[0, 0] = torch.tensor([2.0, 0, 0, 0])
    projections[1, 0] = torch.tensor([-2.0, 0, 0, 0])
    projections[2, 0] = torch.tensor([0, 1.0, 0, 0])
    damage = projections.square().sum(2)
    cost = torch.tensor([[2.0, 4.0]] * 3).double()
    plain = Problem(("a", "b", "c"), damage, cost, 8.0)
    knowing = Problem(("a", "b", "c"), damage, cost, 8.0, projections=projections)
    assert Greedy().solve(plain) == [1, 0, 0]
    chosen = Greedy().solve(knowing)
    assert chosen == [0, 0, 1] and knowing.predicted(chosen) == 0
    assert plain.predicted(chosen) == 8


def test_greedy_ends_where_no_change_gains() -> None:
    generator = torch.Generator().manual_seed(0)
    projections = torch.randn(30, 3, 16, generator=generator).double()
    projections *= torch.tensor([1.0, 0.1, 1e-4])[:, None]
    cost = torch.tensor([[2.0, 4.0, 8.0]] * 30).double()
    names = tuple(f"u{i}" for i in range(30))
    damage = projections.square().sum(2)
    problem = Problem(names, damage, cost, 150.0, projections=projections)
    chosen = Greedy().solve(problem)
    assert problem.keeps(chosen)
    apart = Greedy().solve(Problem(names, damage, cost, 150.0))
    assert problem.predicted(chosen) < 0.9 * problem.predicted(apart)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_bits_go_where_they_matter(solver: Solver) -> None:
    graph, context = sample()
    options = Quantize(None, rounding="nearest", correct_bias=False)
    allocate = Allocate(FORMATS, 6.5, Gradient(probes=16), solver, options)
    new, remarks = allocate(graph, context)
    first = remarks[0]
    assert first.data["bits"] <= 6.5 and first.data["bits"] > 5
    assert "bits a weight on average" in first.text and "Gradient expects a damage" in first.text
    chosen = first.data["choices"]
    assert set(chosen) == {"x", "a", "b", "d", "y"}
    assert {n.name: n.attrs["format"] for n in new.nodes if n.op == "decode"} == {
        f"{weight}_value": chosen[reader]
        for weight, reader in {"e": "x", "q": "a", "k": "b", "u": "d", "v": "y"}.items()
    }
    # The same bits for all do more damage, though they are not fewer.
    error = difference(execute(new, context.inputs), execute(graph, context.inputs))
    even, _ = Quantize(None, "int4-g16-asym", "nearest", correct_bias=False)(graph, context)
    assert error < difference(execute(even, context.inputs), execute(graph, context.inputs))
    kept = {remark.site for remark in remarks if not remark.applied}
    assert kept == {"z"}  # few weights, and no codes for them
    decoded = [node for node in new.nodes if node.op == "decode"]
    stored = sum(new.value(part).nbytes for node in decoded for part in node.inputs)
    assert stored == first.data["bytes"]


@pytest.mark.parametrize(
    ("budget", "least"),
    [
        (Budget(3.0), "3 bits cannot be met: the least possible is 4.125"),
        (Budget(2000, "bytes"), "2000 bytes cannot be met: the least possible is 4620"),
        (Budget(4, "mac_bits"), "4 bits a product cannot be met: the least possible is 4.125"),
        (Budget(-1.0, "damage"), "-1 of damage cannot be met: the least possible is"),
    ],
)
def test_a_budget_that_cannot_be_met_is_refused(budget: Budget, least: str) -> None:
    graph, context = sample()
    with pytest.raises(InputError, match=least):
        Allocate(FORMATS, budget, Gradient(probes=1))(graph, context)


def plain(text: str) -> tuple[Graph, Context]:
    graph = parse(text)
    fill(graph, torch.Generator().manual_seed(0))
    inputs = [torch.randn([int(n) for n in graph.inputs[0].shape])]
    return graph, Context(inputs, [inputs])


SMALL = """
def graph(x: f32[8, 16], *, a: f32[24, 16], b: f32[16, 24]):
    h: f32[8, 24] = linear(x, a)
    y: f32[8, 16] = linear(h, b)
    return y
"""
CONVOLUTIONS = """
def graph(x: f32[2, 32, 8], *, a: f32[32, 32, 3], b: f32[32, 32, 3], c: f32[4, 32, 1]):
    h: f32[2, 32, 6] = conv1d(x, a)
    i: f32[2, 32, 4] = conv1d(h, b)
    y: f32[2, 4, 4] = conv1d(i, c)
    return y
"""


def test_weights_that_are_too_small_to_count_are_named() -> None:
    graph, context = plain(SMALL)
    with pytest.raises(InputError) as caught:
        Allocate(FORMATS, 5.0)(graph, context)
    assert caught.value.what == (
        "there is nothing to allocate bits to: the weights of h (linear), y (linear) have fewer "
        "than least=1024 elements"
    )
    assert caught.value.do.startswith("quantize=Quantize(None, least=384), or less")
    counted = Quantize(None, rounding="nearest", correct_bias=False, least=384)
    _, remarks = Allocate(("int4-g8", "int8-g8"), 9.0, Gradient(1), quantize=counted)(
        graph, context
    )
    assert set(remarks[0].data["choices"]) == {"h", "y"}


def test_a_graph_without_weights_has_nothing_to_choose_for() -> None:
    graph, context = plain("def graph(x: f32[8, 16]):\n    y: f32[8, 16] = relu(x)\n    return y\n")
    with pytest.raises(InputError, match="it has no linear layers, convolutions or tables"):
        Allocate(FORMATS, 5.0).run(graph, context)


def test_weights_whose_choice_is_given_are_named() -> None:
    graph, context = plain(SMALL)
    given = {name: Choice(None, None) for name in ("h", "y")}
    with pytest.raises(InputError, match=r"of h \(linear\), y \(linear\) the choice is given"):
        Allocate(FORMATS, 5.0, quantize=Quantize(None, choices=given))(graph, context)


def test_what_no_choice_fits_is_named_where_a_budget_cannot_be_met() -> None:
    graph, context = plain(CONVOLUTIONS)
    with pytest.raises(InputError) as caught:
        Allocate(FORMATS, 5.0, Gradient(probes=1))(graph, context)
    assert caught.value.what.endswith(
        ": none of the choices fits 6,144 of the 6,144 weights that count, those of h (conv1d), "
        "i (conv1d): groups of codes are for linear layers and tables; 128 others do not count, "
        "in weights of fewer than least=1024 elements"
    )


def test_a_budget_of_damage_takes_as_few_bits_as_it_can() -> None:
    graph, context = sample()
    options = Quantize(None, rounding="nearest", correct_bias=False)

    def bits(limit: float, solver: Solver) -> tuple[float, float]:
        allocate = Allocate(FORMATS, Budget(limit, "damage"), Measured(), solver, options)
        new, remarks = allocate(graph, context)
        error = difference(execute(new, context.inputs), execute(graph, context.inputs))
        return remarks[0].data["bits"], error

    solvers = (IntegerProgramming(), Bisection())
    loose, tight = ([bits(limit, solver) for solver in solvers] for limit in (1e-2, 1e-4))
    for few, many in zip(loose, tight, strict=True):
        assert few[0] < many[0] and few[1] > many[1]
        assert few[1] ** 2 < 3e-2 and many[1] ** 2 < 3e-4
    with pytest.raises(InputError, match="with the most that can be chosen, is"):
        bits(1e-9, Bisection())
    with pytest.raises(InputError, match="Bisection lowers units until a measured damage"):
        Allocate(FORMATS, 6.5, Measured(), Bisection())(graph, context)


def test_bisection_takes_fewer_runs_than_trying_all() -> None:
    graph, context = sample()
    allocate = Allocate(FORMATS, Budget(1e-2, "damage"), Gradient(probes=16), Bisection())
    candidates = Candidates.of(graph, context, allocate.units(graph), [Choice(f) for f in FORMATS])
    problem = allocate.problem(candidates)
    runs: list[list[int]] = []
    assert problem.measure is not None
    exact = problem.measure

    def measure(chosen: list[int]) -> float:
        runs.append(list(chosen))
        return exact(chosen)

    counted = Problem(
        problem.names, problem.damage, problem.cost, problem.limit, "damage", measure=measure
    )
    chosen = Bisection().solve(counted)
    assert exact(chosen) <= 1e-2
    assert len(runs) <= 1 + 2 * 3  # five units, two steps down
    costs = {
        choice: problem.total(problem.cost, choice)
        for choice in itertools.product(range(3), repeat=5)
        if exact(list(choice)) <= 1e-2
    }
    assert problem.total(problem.cost, chosen) <= 1.3 * min(costs.values())


class _Wrong(Score):
    """Takes what is worst for best."""

    def damages(self, candidates: Candidates) -> Damages:
        return Damages(1 / (1e-9 + Measured().damages(candidates).damage))


def test_a_mixture_that_is_worse_than_one_choice_for_all_is_not_taken() -> None:
    graph, context = sample()
    options = Quantize(None, rounding="nearest", correct_bias=False)
    _, remarks = Allocate(FORMATS, 6.3, _Wrong(), quantize=options)(graph, context)
    assert set(remarks[0].data["choices"].values()) == {"int4-g16-asym"}
    assert "measured, it does" in remarks[0].text
    _, remarks = Allocate(FORMATS, 6.2, _Wrong(), quantize=options)(graph, context)
    # Four bits take 6.25, and there is no better single choice, nor any without two bits.
    assert set(remarks[0].data["choices"].values()) == {"int2-g16-asym"}
    assert "measured" not in remarks[0].text


class _Blind(Score):
    """Sees no harm in what is coarse: what is finer is worth little to it."""

    def damages(self, candidates: Candidates) -> Damages:
        found = Measured().damages(candidates).damage
        return Damages(found.clamp(max=float(found.min(1).values.max())))


def test_a_mixture_without_the_coarsest_is_tried_too() -> None:
    graph, context = sample()
    options = Quantize(None, rounding="nearest", correct_bias=False)
    _, remarks = Allocate(FORMATS, 7.2, _Blind(), quantize=options)(graph, context)
    first = remarks[0]
    assert set(first.data["choices"].values()) == {"int4-g16-asym", "int8-g16-asym"}
    assert 6.25 < first.data["bits"] <= 7.2
    assert "what was expected to do least" in first.text


def test_without_a_choice_the_others_stay() -> None:
    inf = torch.inf
    cost = torch.tensor([[4.0, 2.0, 8.0], [40.0, 20.0, 80.0], [inf, 2.0, inf]]).double()
    problem = Problem(("a", "b", "c"), 1 / cost, cost, 50.0)
    assert problem.cheapest_first[-1] == 2
    assert problem.cheapest_first.index(0) < 2
    left = problem.without(1)
    assert left.least == [0, 0, 1]  # the last has no other
    assert left.total(left.cost, left.least) == 46
    assert torch.equal(problem.cost, cost)


def test_latency_is_a_table_of_the_user() -> None:
    graph, context = sample()
    choices = tuple(Choice(name) for name in FORMATS)
    table = {
        name: {choice: float(bits) for choice, bits in zip(choices, (2, 4, 8), strict=True)}
        for name in ("x", "a", "b", "d", "y")
    }
    budget = Budget(22, "latency")
    _, remarks = Allocate(choices, budget, Gradient(probes=4), latency=table)(graph, context)
    spent = sum(table[r][Choice(f)] for r, f in remarks[0].data["choices"].items())
    assert 18 <= spent <= 22
    del table["d"]
    with pytest.raises(InputError, match="the table of latencies has none of d"):
        Allocate(choices, budget, Gradient(probes=1), latency=table)(graph, context)


def test_activations_are_chosen_too() -> None:
    graph, context = sample()
    choices = (Choice("int8-channel", "static"), Choice("int8-channel"), Choice(None))
    options = Quantize("static", rounding="nearest", correct_bias=False)
    allocate = Allocate(choices, Budget(3e-4, "damage"), Measured(), quantize=options, by="value")
    new, remarks = allocate(graph, context)
    assert allocate.formats == ()
    chosen = remarks[0].data["choices"]
    assert chosen["a"] == chosen["b"]  # they read one value
    error = difference(execute(new, context.inputs), execute(graph, context.inputs))
    assert 0 < error**2 < 1e-3


def test_what_the_user_chose_stays() -> None:
    graph, context = sample()
    options = Quantize(None, choices={"a": Choice("int6-g16-asym"), "x": Choice(None)})
    allocate = Allocate(FORMATS, 5.0, Gradient(probes=2), quantize=options)
    assert allocate.formats == (*FORMATS, "int6-g16-asym")
    new, remarks = allocate(graph, context)
    assert set(remarks[0].data["choices"]) == {"b", "d", "y"}
    assert new["q_value"].attrs["format"] == "int6-g16-asym"
    assert new["x"].args[0].op == "param"


def test_tables_may_have_a_format_of_their_own() -> None:
    graph, context = sample()
    options = Quantize(None, tables="int8-g32")
    new, remarks = Allocate(FORMATS, 5.0, Gradient(probes=2), quantize=options)(graph, context)
    assert set(remarks[0].data["choices"]) == {"a", "b", "d", "y"}
    assert new["e_value"].attrs["format"] == "int8-g32"


def test_needs_calibration_data() -> None:
    graph, context = sample()
    with pytest.raises(InputError, match="Gradient needs calibration data, and there is none"):
        Allocate(FORMATS, 5.0)(graph, Context(context.inputs))


def test_who_meets_a_weight_gets_one_choice() -> None:
    generator = torch.Generator().manual_seed(3)
    graph = parse("""
    def graph(x: f32[4, 6, 32], *, w: f32[32, 32], v: f32[32, 32]):
        a: f32[4, 6, 32] = linear(x, w)
        b: f32[4, 6, 32] = relu(a)
        c: f32[4, 6, 32] = linear(b, w)
        y: f32[4, 6, 32] = linear(c, v)
        return y
    """)
    fill(graph, generator)
    inputs = [torch.randn(4, 6, 32, generator=generator)]
    context = Context(inputs=inputs, calibration=[inputs])
    for by in ("weight", "value", "block"):
        step = Allocate(("int8-g32", "int4-g32"), 7, by=by, quantize=Quantize(None, least=0))
        assert [[r.name for r in u.readers] for u in step.units(graph)] == [["a", "c"], ["y"]]
        new, _ = step(graph, context)
        assert new["a"].args[1] is new["c"].args[1]
        assert {new[name].args[1].attrs["format"] for name in "ay"} == {"int8-g32", "int4-g32"}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"by": "layer"}, "one of 'weight', 'value', 'block'"),
        ({"score": "hessian"}, "score: an object of the class Score"),
        ({"solver": "greedy"}, "solver: an object of the class Solver"),
        ({"quantize": "gptq"}, "quantize: an object of the class Quantize"),
        ({"latency": 3.0}, "latency: a mapping"),
        ({"budget": "4 bits"}, "budget: a number"),
        ({"budget": float("nan")}, "budget: a number"),
        ({"choices": "int4-g32"}, "is no tuple"),
        ({"choices": (4, 8)}, "4 is no choice"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        given: dict[str, Any] = {"choices": ("int4-g32", "int8-g32"), "budget": 6.0}
        Allocate(**(given | options))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Budget(5, "megabytes"), "'bits', 'bytes', 'mac_bits', 'latency', 'damage'"),  # type: ignore[arg-type]
        (lambda: Budget(float("inf")), "limit: a number"),
        (lambda: Measured(batches=0), "batches: a whole number from 1"),
        (lambda: LayerRelevance(of="class"), "one of 'top', 'all'"),  # type: ignore[arg-type]
        (lambda: LayerRelevance(batches=0), "batches: a whole number from 1"),
        (lambda: LayerRelevance(epsilon=-1.0), "epsilon: a number from 0"),
        (lambda: IntegerProgramming(seconds=0), "seconds: a number above 0"),
        (lambda: DynamicProgramming(steps=0), "steps: a whole number from 1"),
    ],
)
def test_scores_solvers_and_budgets_refuse_what_means_nothing(make: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        make()
