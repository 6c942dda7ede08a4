"""Weights of a structured form: how near they come, what they cost, and that targets run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from graphs import filled
from timed import Counting

import regauge as rg
from regauge.backends.onnxruntime import lower
from regauge.backends.profiles import target
from regauge.ir import Graph, InputError, SiteError, astype
from regauge.ir.interpret import execute
from regauge.passes import (
    Context,
    Factorize,
    Kronecker,
    LowRank,
    Monarch,
    RankTimes,
    TensorTrain,
)
from regauge.passes.budget import IntegerProgramming
from regauge.passes.manager import difference
from regauge.passes.quantization.solvers import Hessian
from regauge.passes.structure.costs import Costs
from regauge.passes.structure.factors.factoring import Score
from regauge.passes.structure.factors.forms import Form, refined, split

FORMS: list[Form] = [LowRank(), Kronecker(), Monarch(), TensorTrain(), TensorTrain(cores=4)]
forms = pytest.mark.parametrize("form", FORMS, ids=str)
M, N = 36, 24

TWO = """
def graph(x: f64[2, 300, 24], *, a: f64[36, 24], c: f64[36], b: f64[16, 36], d: f64[16]):
    h: f64[2, 300, 36] = linear(x, a, c)
    r: f64[2, 300, 36] = relu(h)
    y: f64[2, 300, 16] = linear(r, b, d)
    return y
"""
DYNAMIC = """
def graph(x: f64[n, t, 24], *, a: f64[36, 24], c: f64[36]):
    y: f64[n, t, 36] = linear(x, a, c)
    return y
"""
CONVOLUTION = """
def graph(x: f64[4, 6, 9, 9], *, a: f64[16, 6, 3, 3], c: f64[16], p: f64[12, 16, 1, 1],
          g: f64[12, 1, 3, 3]):
    h: f64[4, 16, 5, 5] = conv2d(x, a, c, stride=(2, 2), padding=(1, 1))
    i: f64[4, 12, 5, 5] = conv2d(h, p)
    y: f64[4, 12, 3, 3] = conv2d(i, g, groups=12)
    return y
"""


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correlated(rows: int, size: int, seed: int = 0) -> torch.Tensor:
    """Rows that lie mostly in few directions, ``[rows, size]``."""
    mixing = torch.randn(size, size, generator=generator(size), dtype=torch.float64)
    spread = torch.logspace(0, -3, size, dtype=torch.float64)
    return (
        torch.randn(rows, size, generator=generator(seed), dtype=torch.float64) * spread
    ) @ mixing


def channelwise(rows: int, size: int) -> torch.Tensor:
    """Rows whose channels have very different power, ``[rows, size]``."""
    spread = torch.logspace(0, -2, size, dtype=torch.float64)
    return torch.randn(rows, size, generator=generator(0), dtype=torch.float64) * spread


def matrix(seed: int = 1) -> torch.Tensor:
    return torch.randn(M, N, generator=generator(seed), dtype=torch.float64)


def two(**options: Any) -> tuple[Graph, Context]:
    graph, _ = filled(TWO)
    batches = [[correlated(600, N, seed).reshape(2, 300, N)] for seed in (2, 3)]
    return graph, Context(inputs=batches[0], calibration=batches, **options)


def damage(graph: Graph, wanted: Graph, batch: Sequence[Any]) -> float:
    return difference(execute(graph, batch), execute(wanted, batch))


# -- forms ----------------------------------------------------------------------------------------


@forms
@pytest.mark.parametrize("weighted", [False, True])
def test_a_form_of_full_rank_is_the_matrix(form: Form, weighted: bool) -> None:
    x, weight = correlated(500, N), matrix()
    fit = form.fit(weight, Hessian(x.T @ x) if weighted else None, 0.01)
    found = form.dense(fit(form.most(M, N)))
    torch.testing.assert_close(found, weight, rtol=0, atol=1e-9)
    assert not torch.allclose(form.dense(fit(form.most(M, N) - 1)), weight, atol=1e-3)


@forms
def test_a_form_has_as_many_numbers_as_it_says(form: Form) -> None:
    fit = form.fit(matrix(), None, 0.01)
    for rank in range(1, form.most(M, N) + 1):
        count = sum(tensor.numel() for tensor in fit(rank))
        assert count == form.parameters(M, N, rank)
        assert form.rank_within(M, N, count) >= rank
        assert form.parameters(M, N, form.rank_within(M, N, count)) == count
    assert form.rank_within(M, N, form.parameters(M, N, 1) - 1) == 0


@pytest.mark.parametrize("rank", [1, 5, 20])
def test_low_rank_is_the_truncated_svd_of_what_the_layer_gives(rank: int) -> None:
    """By Eckart and Young no product of this rank is nearer to X W'."""
    x, weight = correlated(500, N), matrix()
    stands = LowRank().dense(LowRank().fit(weight, Hessian(x.T @ x), 0.0)(rank))
    values = torch.linalg.svdvals(x @ weight.T)
    lost = (x @ (weight - stands).T).norm()
    torch.testing.assert_close(lost, values[rank:].norm(), rtol=1e-6, atol=0)
    plain = LowRank().dense(LowRank().fit(weight, None, 0.0)(rank))
    tail = torch.linalg.svdvals(weight)[rank:].norm()
    torch.testing.assert_close((weight - plain).norm(), tail)


@pytest.mark.parametrize("rank", [1, 3])
def test_a_sum_of_kronecker_products_is_the_nearest(rank: int) -> None:
    """The tail of the singular values of the rearranged matrix, and torch.kron of the parts."""
    weight = matrix()
    first, second = Kronecker().fit(weight, None, 0.0)(rank)
    found = Kronecker().dense((first, second))
    products = [torch.kron(first[0, ..., k], second[k, ..., 0]) for k in range(rank)]
    torch.testing.assert_close(found, torch.stack(products).sum(0))
    (m1, n1), (m2, n2) = first.shape[1:3], second.shape[1:3]
    rearranged = weight.reshape(m1, m2, n1, n2).permute(0, 2, 1, 3).reshape(m1 * n1, m2 * n2)
    tail = torch.linalg.svdvals(rearranged)[rank:].norm()
    torch.testing.assert_close((weight - found).norm(), tail)


def test_monarch_is_the_nearest_of_each_slice() -> None:
    weight = matrix()
    found = Monarch().dense(Monarch().fit(weight, None, 0.0)(2))
    lost = (weight - found).reshape(6, 6, 4, 6)
    slices = weight.reshape(6, 6, 4, 6)
    for i2 in range(6):
        for j1 in range(4):
            tail = torch.linalg.svdvals(slices[:, i2, j1])[2:].norm()
            torch.testing.assert_close(lost[:, i2, j1].norm(), tail)


def test_a_tensor_train_finds_what_is_one() -> None:
    form = TensorTrain()
    random = generator(5)
    shapes = [(1, 3, 2, 2), (2, 3, 3, 2), (2, 4, 4, 1)]
    cores = [torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes]
    weight = torch.einsum("aijb,bklc,cmnd->ikmjln", *cores).reshape(M, N)
    torch.testing.assert_close(form.dense(form.fit(weight, None, 0.0)(2)), weight)
    assert form.parameters(M, N, 2) == sum(core.numel() for core in cores)


@forms
def test_with_data_less_of_the_result_is_lost(form: Form) -> None:
    x, weight = channelwise(500, N), matrix()
    hessian = Hessian(x.T @ x)
    lost = [
        float(hessian.cost(weight - form.dense(form.fit(weight, given, 0.01)(2))).sum())
        for given in (hessian, None)
    ]
    assert lost[0] < 0.95 * lost[1]


@forms
def test_descent_loses_less(form: Form) -> None:
    x, weight = correlated(500, N), matrix()
    hessian = Hessian(x.T @ x)
    tensors = form.fit(weight, None, 0.01)(2)
    better = refined(form, tensors, weight, hessian, 20)
    lost = [float(hessian.cost(weight - form.dense(t)).sum()) for t in (better, tensors)]
    assert lost[0] < 0.9 * lost[1]
    assert [t.shape for t in better] == [t.shape for t in tensors]


def test_sizes_are_split_evenly() -> None:
    assert split(1536, 2) == (32, 48)
    assert split(576, 3) == (8, 8, 9)
    assert split(7, 2) is None and split(12, 4) is None


# -- the pass -------------------------------------------------------------------------------------


@forms
@pytest.mark.parametrize("whitened", [False, True])
def test_at_full_rank_nothing_changes(form: Form, whitened: bool) -> None:
    graph, context = two()
    step = Factorize(form, rank=10**6, larger=True, whitened=whitened)
    found, remarks = step(graph, context)
    assert {r.site for r in remarks if r.applied} >= {"h", "y"}
    assert damage(found, graph, context.calibration[0]) < 1e-9
    before, after = (Costs(g, [], context.inputs).parameters() for g in (graph, found))
    assert f"{before:,} to {after:,} ({100 * (after / before - 1):+.3g} %)" in remarks[-1].text


@forms
def test_the_graph_is_as_small_as_was_said(form: Form) -> None:
    graph, context = two()
    found, remarks = Factorize(form, remove=0.3)(graph, context)
    before, after = (Costs(g, [], context.inputs) for g in (graph, found))
    ranks = remarks[-1].data["ranks"]
    sizes = {"h": (36, 24), "y": (16, 36)}
    count = sum(form.parameters(*sizes[name], rank) for name, rank in ranks.items())
    assert after.parameters() == count + 36 + 16 == remarks[-1].data["parameters"]
    assert count <= 0.7 * (before.parameters() - 52)
    macs = sum(600 * form.macs(*sizes[name], rank) for name, rank in ranks.items())
    assert after.macs() == macs == remarks[-1].data["macs"]
    for name, rank in ranks.items():  # one more would be too many
        size = sizes[name][0] * sizes[name][1]
        more = form.parameters(*sizes[name], rank + 1)
        assert more > 0.7 * size or rank == form.most(*sizes[name])


@forms
def test_a_budget_of_products_is_met_layer_by_layer(form: Form) -> None:
    graph, context = two()
    found, remarks = Factorize(form, remove=0.3, of="macs")(graph, context)
    ranks = remarks[-1].data["ranks"]
    for name, size in {"h": (36, 24), "y": (16, 36)}.items():
        room = 0.7 * size[0] * size[1]
        if name in ranks:
            assert form.macs(*size, ranks[name]) <= room
            assert form.macs(*size, ranks[name] + 1) > room or ranks[name] == form.most(*size)
        else:
            assert form.macs(*size, 1) > room
    assert Costs(found, [], context.inputs).macs() <= 0.7 * Costs(graph, [], context.inputs).macs()


def test_a_solver_spends_products_where_they_are_few() -> None:
    """Of two layers of the same size one is applied to a fifth of the rows."""
    graph, inputs = filled(
        """
def graph(x: f64[300, 36], *, a: f64[36, 36], b: f64[36, 36]):
    h: f64[300, 36] = linear(x, a)
    f: f64[60, 36] = slice(h, dim=0, start=0, end=60)
    y: f64[60, 36] = linear(f, b)
    return y
"""
    )
    context = Context(inputs=inputs, calibration=[inputs])
    step = Factorize(remove=0.4, of="macs", solver=IntegerProgramming())
    found, remarks = step(graph, context)
    ranks = remarks[-1].data["ranks"]
    before, after = (Costs(g, [], inputs).macs() for g in (graph, found))
    assert remarks[-1].data["macs"] == after <= 0.6 * before
    assert ranks["h"] < ranks.get("y", 36)
    same, _ = replace(step, of="parameters")(graph, context)
    assert Costs(same, []).parameters() <= 0.6 * Costs(graph, []).parameters()
    assert Costs(found, []).parameters() > 0.6 * Costs(graph, []).parameters()


@forms
def test_onnx_runtime_gives_the_same(form: Form) -> None:
    graph, context = two()
    found, _ = Factorize(form, remove=0.3)(graph, context)
    single = astype(found, torch.float32)
    batch = [context.inputs[0].float()]
    torch.testing.assert_close(lower(single)(batch), execute(single, batch), rtol=1e-3, atol=1e-3)


@forms
def test_symbolic_sizes_stay_symbolic(form: Form) -> None:
    text = filled(DYNAMIC.replace("n, t", "2, 300"))[0]
    dynamic = rg.ir.parse(DYNAMIC)
    for name in ("a", "c"):
        dynamic.store[name] = text.store[name]
    x = correlated(600, N).reshape(2, 300, N)
    context = Context(inputs=[x], calibration=[[x]])
    found, _ = Factorize(form, rank=2, larger=True)(dynamic, context)
    assert found["y"].shape == ("n", "t", 36)
    fixed, _ = Factorize(form, rank=2, larger=True)(text, context)
    torch.testing.assert_close(execute(found, [x]), execute(fixed, [x]))
    assert execute(found, [x[:, :7]])[0].shape == (2, 7, 36)
    single = astype(found, torch.float32)
    some = [x[:1, :5].float()]
    torch.testing.assert_close(lower(single)(some), execute(single, some), rtol=1e-3, atol=1e-3)


def test_data_tell_what_counts() -> None:
    graph, context = two()
    fresh = [correlated(600, N, 9).reshape(2, 300, N)]
    lost = [
        damage(Factorize(remove=0.4, whitened=w)(graph, context)[0], graph, fresh)
        for w in (True, False)
    ]
    assert lost[0] < 0.7 * lost[1]


def test_a_bias_takes_up_the_mean_of_what_is_lost() -> None:
    graph, context = two()
    batches = [[batch[0] + 3.0] for batch in context.calibration]
    context = Context(inputs=batches[0], calibration=batches)
    found, _ = Factorize(rank=4, sites=("h",))(graph, context)
    error = torch.zeros(36, dtype=torch.float64)
    for batch in context.calibration:
        now, was = (execute_value(g, "h", batch) for g in (found, graph))
        error += (now - was).flatten(0, 1).sum(0)
    assert float(error.abs().max()) < 1e-8


def execute_value(graph: Graph, name: str, batch: Sequence[Any]) -> torch.Tensor:
    seen: list[torch.Tensor] = []

    def tap(node: Any, value: torch.Tensor) -> None:
        if node.name == name:
            seen.append(value)

    execute(graph, batch, tap=tap)
    return seen[0]


def test_what_comes_before_is_made_up_for() -> None:
    """The second layer is fitted to what the first one, re-factored, gives; also on fresh data."""
    graph, context = two()
    fresh = [correlated(600, N, 9).reshape(2, 300, N)]
    step = Factorize(Kronecker(), remove=0.5)
    behind = damage(step(graph, context)[0], graph, fresh)
    alone = damage(replace(step, sequential=False)(graph, context)[0], graph, fresh)
    plain = damage(replace(step, make_up=0.0)(graph, context)[0], graph, fresh)
    assert behind < 0.85 * alone
    assert behind < 0.85 * plain


@pytest.mark.parametrize("score", ["layer", "output"])
def test_a_solver_gives_rank_to_the_layers_that_need_it(score: Score) -> None:
    """Of two layers of the same size one is nearly of rank 2."""
    text = TWO.replace("24", "36").replace("b: f64[16, 36], d: f64[16]", "b: f64[36, 36]")
    text = text.replace("linear(r, b, d)", "linear(r, b)").replace("300, 16", "300, 36")
    graph, _ = filled(text)
    random = generator(4)
    thin = [torch.randn(36, 2, generator=random, dtype=torch.float64) for _ in range(2)]
    graph.store["a"] = thin[0] @ thin[1].T + 1e-4 * graph.store["a"]
    batch = [torch.randn(2, 300, 36, generator=random, dtype=torch.float64)]
    context = Context(inputs=batch, calibration=[batch])
    even = Factorize(remove=0.4)
    chosen = Factorize(remove=0.4, solver=IntegerProgramming(), score=score)
    found, remarks = chosen(graph, context)
    ranks = remarks[-1].data["ranks"]
    assert ranks["h"] < ranks.get("y", 36)
    count = sum(int(found.value(p).numel()) for p in found.params.values() if len(p.shape) == 2)
    assert count <= 0.6 * 2 * 36 * 36
    assert damage(found, graph, batch) < 0.5 * damage(even(graph, context)[0], graph, batch)


def test_convolutions_become_two() -> None:
    graph, inputs = filled(CONVOLUTION)
    context = Context(inputs=inputs, calibration=[inputs])
    found, remarks = Factorize(rank=10**6, larger=True)(graph, context)
    assert damage(found, graph, inputs) < 1e-9
    said = {r.site: r.text for r in remarks if not r.applied}
    assert said == {"y": "its channels fall into groups, or its kernel reads too many numbers"}
    less, remarks = Factorize(remove=0.3)(graph, context)
    assert [n.op for n in less.nodes] == ["conv2d"] * 5
    assert less["h"].attrs.get("stride", 1) == 1 and less["h_conv2d"].attrs["stride"] == (2, 2)
    rank = remarks[-1].data["ranks"]["h"]
    assert less.store["a_low"].shape == (rank, 6, 3, 3)
    assert less.store["a_high"].shape == (16, rank, 1, 1)
    whitened = damage(less, graph, inputs)
    plain = Factorize(remove=0.3, whitened=False)(graph, context)[0]
    assert whitened < damage(plain, graph, inputs)


# -- what is left alone ---------------------------------------------------------------------------

SHARED = """
def graph(x: f64[40, 12], i: i64[40], *, a: f64[14, 12]):
    e: f64[40, 12] = embedding(a, i)
    s: f64[40, 12] = add(x, e)
    y: f64[40, 14] = linear(s, a)
    return y
"""
PRIME = """
def graph(x: f64[40, 97], *, a: f64[24, 97], b: f64[13, 24]):
    h: f64[40, 24] = linear(x, a)
    y: f64[40, 13] = linear(h, b)
    return y
"""


def test_a_tied_weight_is_left_alone() -> None:
    graph = rg.ir.parse(SHARED)
    graph.store["a"] = torch.randn(14, 12, dtype=torch.float64)
    with pytest.raises(SiteError, match="a is also read by e"):
        Factorize(whitened=False)(graph)


def test_sizes_without_factors_are_named_with_the_nearest_that_have() -> None:
    graph, _ = filled(PRIME)
    with pytest.raises(SiteError) as raised:
        Factorize(Kronecker(), whitened=False)(graph)
    assert "its 97 inputs are no product of 2 factors; 96 = 8 x 12 are the nearest" in str(
        raised.value
    )
    assert "its 13 outputs are no product of 2 factors; 12 = 3 x 4 are the nearest" in str(
        raised.value
    )


def test_nothing_grows_unless_that_is_asked_for() -> None:
    graph, context = two()
    steps: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
        ({"rank": 20}, "LowRank of rank 20 has 1,200 parameters, the weight 864", {"rank": 14}),
        (
            {"remove": 0.95},
            "LowRank of rank 1 has 60 parameters, the weight 864",
            {"remove": 0.9305},
        ),
        (
            {"remove": 0.95, "of": "macs"},
            "of rank 1 has 60 products a row, the layer 864",
            {"remove": 0.9305},
        ),
    ]
    for options, says, most in steps:
        step = Factorize(sites=("h",), whitened=False, **options)
        ((name, value),) = most.items()
        with pytest.raises(SiteError, match=f"(?s){says}.*{name}={value}, at most, for h"):
            step(graph, context)
        replace(step, **most)(graph, context)


def test_only_low_rank_stands_for_convolutions() -> None:
    graph, inputs = filled(CONVOLUTION)
    context = Context(inputs=inputs, calibration=[inputs])
    with pytest.raises(SiteError, match="Monarch stands for no convolution; LowRank does"):
        Factorize(Monarch())(graph, context)


def test_protected_layers_stay() -> None:
    graph, context = two()
    found, remarks = Factorize(protect=("h",))(graph, context)
    assert any(r.text == "h is protected" for r in remarks)
    assert torch.equal(found.store["a"], graph.store["a"])


def test_too_few_rows_say_so() -> None:
    graph, _ = two()
    batch = [correlated(10, N).reshape(2, 5, N)]
    small = rg.ir.parse(str(graph).replace("300", "5"))
    for name in graph.params:
        small.store[name] = graph.store[name]
    _, remarks = Factorize()(small, Context(inputs=batch, calibration=[batch]))
    said = [r.text for r in remarks if r.site == "h"]
    assert said[0].endswith("fitted to the weights alone: 10 rows of 24")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"form": 0.5}, r"(?s)0\.5 is no form of weights.*remove=0\.3"),
        ({"form": LowRank}, "is no form of weights"),
        ({"remove": 1.0}, "not the part of a network"),
        ({"of": "money"}, "no budget of 'money'"),
        ({"of": "latency"}, r"(?s)needs to know it.*RankTimes\.on"),
        ({"rank": 0}, "rank=0 is not.*\n.*a whole number from 1 or None"),
        ({"rank": 4, "solver": IntegerProgramming()}, "rank says them"),
        ({"whitened": False, "solver": IntegerProgramming()}, "needs to know what is lost"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Factorize(**options)


ALIKE = """
def graph(x: f64[300, 24], *, a: f64[36, 24], b: f64[24, 36], c: f64[36, 24], d: f64[24, 36],
          e: f64[24, 24]):
    h: f64[300, 36] = linear(x, a)
    i: f64[300, 24] = linear(h, b)
    j: f64[300, 36] = linear(i, c)
    k: f64[300, 24] = linear(j, d)
    f: f64[60, 24] = slice(k, dim=0, start=0, end=60)
    y: f64[60, 24] = linear(f, e)
    return y
"""


def test_ranks_are_timed_with_layers_that_are_alike() -> None:
    graph, inputs = filled(ALIKE)
    on = Counting()
    times = RankTimes.on(on, graph, inputs, rounds=1, clock=on.clock)
    assert times.whole == Costs(graph, []).macs() + 1  # one for each run before
    assert len(on.ran) == 1 + 8 * 2 + len(times.offered("y"))  # two kinds of four layers, and y
    assert times.offered("h") == times.offered("j") and times.offered("h")[-1] == 14
    for name, rows, size in (("h", 300, 36 + 24), ("y", 60, 48)):
        rank = times.offered(name)[2]
        saved = rows * (36 * 24 if name == "h" else 24 * 24) - rows * rank * size
        assert times({name: rank}) == pytest.approx(times.whole - saved)


@pytest.mark.parametrize("remove", [0.3, 0.6])
def test_a_budget_of_a_measured_latency_is_met(remove: float) -> None:
    graph, inputs = filled(ALIKE)
    context = Context(inputs=inputs, calibration=[inputs])
    on = Counting()
    times = RankTimes.on(on, graph, inputs, rounds=1, clock=on.clock)
    solver = IntegerProgramming()
    step = Factorize(remove=remove, of="latency", solver=solver, latency=times)
    found, remarks = step(graph, context)
    said = remarks[-1].data
    assert said["latency_before"] == times.whole
    assert said["latency"] == pytest.approx(times(said["ranks"])) and "latency" in remarks[-1].text
    assert said["latency"] <= (1 - remove) * times.whole
    assert Costs(found, []).macs() + 1 == pytest.approx(said["latency"])
    # y takes a fifth of the rows, and little of the time: it keeps more than where products of all
    # weights count the same
    same, _ = replace(step, of="parameters")(graph, context)
    assert Costs(same, []).macs() > (1 - remove) * Costs(graph, []).macs() or remove == 0.6


def test_a_latency_that_no_ranks_meet_is_told() -> None:
    graph, inputs = filled(ALIKE)
    context = Context(inputs=inputs, calibration=[inputs])
    on = Counting()
    times = RankTimes.on(on, graph, inputs, rounds=1, clock=on.clock)
    step = Factorize(remove=0.97, of="latency", solver=IntegerProgramming(), latency=times)
    least = times({name: times.offered(name)[0] for name in times.layers})
    with pytest.raises(InputError) as told:
        step(graph, context)
    assert f"seconds cannot be met: the least possible is {least:.4g}\n" in str(told.value)
    with pytest.raises(InputError, match="no time is known of h"):
        replace(step, latency=RankTimes(1.0))(graph, context)


def test_ranks_are_timed_on_a_target_of_the_library() -> None:
    graph, inputs = filled(TWO)
    times = RankTimes.on(target("torch"), graph, inputs, rounds=1)
    assert times.whole > 0 and set(times.layers) == {"h", "y"}


def test_data_are_needed_where_they_count() -> None:
    graph, _ = two()
    with pytest.raises(InputError, match="Factorize needs calibration data"):
        Factorize()(graph)


def test_the_part_that_stays_may_be_all_used() -> None:
    """Of rank 1 a layer of 20 times 20 has a tenth of its weights, which 1 - 0.9 is not quite."""
    graph, inputs = filled("""
        def graph(x: f64[50, 20], *, a: f64[20, 20]):
            y: f64[50, 20] = linear(x, a)
            return y
        """)
    context = Context(inputs=inputs, calibration=[inputs])
    found, _ = Factorize(remove=0.9)(graph, context)
    assert Costs(found, [], inputs).parameters() == 40


def test_what_grows_is_told_so() -> None:
    graph, inputs = filled(TWO)
    context = Context(inputs=inputs, calibration=[inputs])
    _, remarks = Factorize(rank=24, larger=True)(graph, context)
    (told,) = [remark.text for remark in remarks if remark.data.get("decided")]
    assert "parameters 1,492 to 2,324 (+55.8 %)" in told
