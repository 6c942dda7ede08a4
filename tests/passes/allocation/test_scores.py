"""Scores say what choices do: checked against the runs and the matrices that they stand for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graphs import fill

from regauge.ir import Graph, InputError, astype, parse
from regauge.ir.interpret import execute
from regauge.passes import Choice, Context
from regauge.passes.allocation import (
    Candidates,
    Chance,
    Gradient,
    Hessian,
    LayerRelevance,
    Measured,
    Outstanding,
    Similarity,
)
from regauge.passes.allocation.relevance import relevance
from regauge.passes.allocation.units import units

CHAIN = """
def graph(t: i64[6, 5], *, e: f32[40, 32], w: f32[16, 32], c: f32[16],
          u: f32[32, 16], v: f32[8, 32]):
    x: f32[6, 5, 32] = embedding(e, t)
    a: f32[6, 5, 16] = linear(x, w, c)
    r: f32[6, 5, 16] = gelu(a)
    b: f32[6, 5, 32] = linear(r, u)
    s: f32[6, 5, 32] = add(x, b)
    y: f32[6, 5, 8] = linear(s, v)
    return y
"""
CHOICES = [Choice("int3-g16-asym"), Choice("int6-g16-asym"), Choice(None)]


def filled(text: str, seed: int = 0) -> Graph:
    graph = parse(text)
    generator = torch.Generator().manual_seed(seed)
    fill(graph, generator, level=True)
    return graph


def sample(choices: list[Choice] = CHOICES) -> Candidates:
    graph = filled(CHAIN)
    generator = torch.Generator().manual_seed(1)
    data = [[torch.randint(0, 40, (6, 5), generator=generator)] for _ in range(3)]
    return Candidates.of(graph, Context(data[0], data), units(graph), choices)


def test_measured_damage_is_that_of_one_unit_alone() -> None:
    candidates = sample()
    assert [unit.name for unit in candidates.units] == ["x", "a", "b", "y"]
    found = Measured(batches=3).damages(candidates).damage
    assert bool((found[:, 2] == 0).all())
    assert bool((found[:, 0] > 10 * found[:, 1]).all())
    graph = candidates.graph.copy()
    graph.store["w"] = candidates.weight(candidates.units[1].weights[0], CHOICES[0])
    wrong = power = 0.0
    for batch in candidates.context.calibration:
        (one,), (other,) = execute(graph, batch), execute(candidates.graph, batch)
        wrong += float((one - other).square().sum())
        power += float(other.square().sum())
    assert float(found[1, 0]) == pytest.approx(wrong / power, rel=1e-4)


def test_gradients_estimate_what_is_measured() -> None:
    candidates = sample()
    measured = Measured(batches=3).damages(candidates).damage
    found = Gradient(probes=64, batches=3).damages(candidates)
    assert found.projections is None
    assert bool((found.damage[:, 2] == 0).all())
    ratio = found.damage[:, :2] / measured[:, :2]
    assert 0.7 < float(ratio.min()) and float(ratio.max()) < 1.4


def test_products_of_units_say_how_their_errors_meet() -> None:
    candidates = sample()
    found = Gradient(probes=64, batches=3, dependencies=True).damages(candidates)
    assert found.projections is not None
    torch.testing.assert_close(found.projections.square().sum(2), found.damage)
    batches = list(candidates.context.calibration)
    wanted = candidates.exact(batches)
    chosen = {unit.readers[0]: CHOICES[0] for unit in candidates.units}
    together = candidates.damage(chosen, batches, wanted)
    estimate = float(found.projections[:, 0].sum(0).square().sum())
    assert estimate == pytest.approx(together, rel=0.35)


def test_gradients_see_activations_with_weights() -> None:
    choices = [Choice("int4-g16-asym", "dynamic-tensor"), Choice(None, "static"), Choice(None)]
    candidates = sample(choices)
    measured = Measured(batches=3).damages(candidates).damage
    found = Gradient(probes=64, batches=3).damages(candidates).damage
    assert bool((found[1:, 1] > 0).all()) and bool((found[:, 2] == 0).all())
    ratio = found[1:, :2] / measured[1:, :2]
    assert 0.6 < float(ratio.min()) and float(ratio.max()) < 1.6


def test_gradients_of_likelihood_estimate_the_divergence() -> None:
    candidates = sample()
    found = Gradient(probes=64, batches=3, metric="likelihood").damages(candidates).damage
    for row, unit in enumerate(candidates.units):
        divergence = 0.0
        for batch in candidates.context.calibration:
            read = candidates.reading({unit.readers[0]: CHOICES[0]})
            one = execute(candidates.graph, batch, read=read)[0].log_softmax(-1)
            other = execute(candidates.graph, batch)[0].log_softmax(-1)
            divergence += float((other.exp() * (other - one)).sum(-1).mean()) / 3
        assert float(found[row, 0]) == pytest.approx(divergence, rel=0.4)


def test_rows_add_up_to_what_they_are_rows_of() -> None:
    candidates = sample()
    rows = Gradient(probes=32, batches=3).of_rows(candidates)
    assert [part.shape for part in rows] == [(3, 40), (3, 16), (3, 32), (3, 8)]
    batches = list(candidates.context.calibration)
    wanted = candidates.exact(batches)
    weight = candidates.units[2].weights[0]
    value = candidates.graph.value(weight)
    coded = candidates.weight(weight, CHOICES[0])
    measured: list[float] = []
    for row in range(32):
        graph = candidates.graph.copy()
        graph.store["u"] = torch.cat([value[:row], coded[row : row + 1], value[row + 1 :]])
        alone = Candidates.of(graph, candidates.context, candidates.units, CHOICES)
        measured.append(alone.damage({}, batches, wanted))
    both = torch.stack([torch.tensor(measured).double(), rows[2][0].double()])
    assert float(torch.corrcoef(both.log())[0, 1]) > 0.8
    assert float(both[1].sum()) == pytest.approx(float(both[0].sum()), rel=0.3)


def curvature(candidates: Candidates, name: str, likelihood: bool) -> torch.Tensor:
    """The Hessian by a weight, as automatic differentiation has it."""
    graph = astype(candidates.graph, torch.float64)
    batches = candidates.context.calibration
    wanted = [execute(graph, batch)[0] for batch in batches]

    def loss(weight: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for batch, exact in zip(batches, wanted, strict=True):
            found = execute(graph, batch, params={name: weight})[0]
            if likelihood:
                total = total - (exact.softmax(-1) * found.log_softmax(-1)).sum()
            else:
                total = total + (found - exact).square().sum() / 2
        return total

    weight = graph.store[name]
    whole: Any = torch.autograd.functional.hessian(loss, weight, vectorize=True)
    power = (
        sum(2 * exact[..., 0].numel() for exact in wanted)
        if likelihood
        else sum(float(exact.square().sum()) for exact in wanted)
    )
    return whole.reshape(weight.numel(), weight.numel()) / power


@pytest.mark.parametrize("metric", ["error", "likelihood"])
def test_curvature_is_that_of_the_hessian(metric: Any) -> None:
    candidates = sample()
    trace = Hessian(probes=64, batches=3, metric=metric).traces(candidates)
    top = Hessian("eigenvalue", iterations=40, batches=3, metric=metric).eigenvalues(candidates)
    for row, name in ((1, "w"), (3, "v")):
        hessian = curvature(candidates, name, metric == "likelihood")
        assert float(trace[row]) == pytest.approx(float(hessian.trace()), rel=0.2)
        greatest = float(torch.linalg.eigvalsh(hessian)[-1])
        assert float(top[row]) == pytest.approx(greatest, rel=0.03)
    damage = Hessian(batches=3, metric=metric).damages(candidates).damage
    assert bool((damage[:, 0] > damage[:, 1]).all()) and bool((damage[:, 2] == 0).all())


BLOCKS = """
def graph(x: f64[3, 4, 16], *, n: f64[16], q: f64[16, 16], k: f64[16, 16], o: f64[16, 16],
    g: f64[32, 16], h: f64[32, 16], d: f64[16, 32], y: f64[10, 16]):
    a: f64[3, 4, 16] = rms_norm(x, n, normalized_shape=(16,))
    b: f64[3, 4, 16] = linear(a, q)
    c: f64[3, 4, 16] = linear(a, k)
    s: f64[3, 4, 16] = scaled_dot_product_attention(b, c, a)
    t: f64[3, 4, 16] = linear(s, o)
    r: f64[3, 4, 16] = add(x, t)
    i: f64[3, 4, 32] = linear(r, g)
    j: f64[3, 4, 32] = silu(i)
    l: f64[3, 4, 32] = linear(r, h)
    m: f64[3, 4, 32] = mul(j, l)
    p: f64[3, 4, 16] = linear(m, d)
    u: f64[3, 4, 16] = add(r, p)
    v: f64[3, 16] = mean(u, dim=(1,))
    z: f64[3, 10] = linear(v, y)
    return z
"""


def in_double(text: str) -> tuple[Graph, list[torch.Tensor]]:
    graph = parse(text)
    generator = torch.Generator().manual_seed(0)
    for name, node in graph.params.items():
        shape = [int(size) for size in node.shape]
        value = torch.randn(shape, generator=generator, dtype=torch.float64)
        graph.store[name] = value / shape[-1] ** 0.5
    x = torch.randn(3, 4, 16, generator=generator, dtype=torch.float64)
    return graph, [x]


def test_no_relevance_is_lost() -> None:
    graph, inputs = in_double(BLOCKS)
    found = relevance(graph, inputs, torch.square, epsilon=1e-12)
    (out,) = execute(graph, inputs)
    whole = out.square().sum()
    for name in ("u", "v", "x"):
        torch.testing.assert_close(found[graph[name]].sum(), whole, rtol=1e-8, atol=0)
    parts = found[graph["j"]].sum() + found[graph["l"]].sum()
    torch.testing.assert_close(parts, found[graph["m"]].sum(), rtol=1e-8, atol=0)
    torch.testing.assert_close(found[graph["j"]], found[graph["l"]])  # a product is halved
    assert graph["q"] not in found and graph["b"] not in found  # attention's weights


def test_a_bias_keeps_its_share() -> None:
    text = BLOCKS.replace("y: f64[10, 16]", "y: f64[10, 16], f: f64[10]")
    graph, inputs = in_double(text.replace("linear(v, y)", "linear(v, y, f)"))
    found = relevance(graph, inputs, torch.square, epsilon=1e-12)
    (out,) = execute(graph, inputs)
    kept, passed = found[graph["f"]].sum(), found[graph["x"]].sum()
    assert abs(float(kept)) > 1e-3
    torch.testing.assert_close(kept + passed, out.square().sum(), rtol=1e-8, atol=0)


def test_constants_keep_what_they_are_of_a_value() -> None:
    text = """
    def graph(x: f64[3, 4, 16], *, e: f64[1, 4, 16], p: f64[8, 16]):
        c: f64[3, 4, 16] = expand(e, size=(3, 4, 16))
        a: f64[3, 8, 16] = cat((c, x), dim=1)
        b: f64[3, 8, 16] = add(a, p)
        return b
    """
    graph, inputs = in_double(text)
    found = relevance(graph, inputs, torch.square, epsilon=1e-12)
    kept = sum(found[graph[name]].sum() for name in ("c", "p", "x"))
    torch.testing.assert_close(kept, execute(graph, inputs)[0].square().sum(), rtol=1e-8, atol=0)
    assert all(abs(float(found[graph[name]].sum())) > 1e-2 for name in ("c", "p"))


@pytest.mark.parametrize(
    "body",
    [
        "b: f64[4, 3, 16] = transpose(x, dim0=0, dim1=1)",
        "b: f64[3, 64] = reshape(x, shape=(3, 64))",
        "b: f64[3, 4, 16] = mul(x, x)",
        "b: f64[3, 4, 16] = mul(x, 3.0)",
        "b: f64[3, 4, 32] = cat((x, x), dim=-1)",
        "b: f64[3, 4, 4] = matmul(x, a)\n    a: f64[3, 16, 4] = transpose(x, dim0=1, dim1=2)",
        "b: f64[3, 4, 16] = softmax(x, dim=-1)",
        "b: f64[3, 4, 4] = slice(x, dim=2, start=1, end=5)",
    ],
)
def test_each_op_hands_on_all_that_it_gets(body: str) -> None:
    lines = body.split("\n    ")[::-1]
    text = "\n    ".join(["def graph(x: f64[3, 4, 16]):", *lines, "return b"])
    graph, inputs = in_double(text)
    found = relevance(graph, inputs, torch.square, epsilon=1e-12)
    whole = execute(graph, inputs)[0].square().sum()
    torch.testing.assert_close(found[graph["x"]].sum(), whole, rtol=1e-8, atol=0)


def test_relevance_ranks_units() -> None:
    candidates = sample()
    shares = LayerRelevance(of="all", batches=3).shares(candidates)
    assert float(shares.sum()) == pytest.approx(1.0)
    damage = LayerRelevance(batches=3).damages(candidates).damage
    assert bool((damage[:, 0] > damage[:, 1]).all())


def stack(scales: tuple[float, ...]) -> Candidates:
    """Blocks that change what they read by more or less."""
    lines, params = list[str](), list[str]()
    last = "x"
    for i in range(len(scales)):
        params.append(f"w{i}: f32[16, 16]")
        lines += [
            f"a{i}: f32[8, 16] = linear({last}, w{i})",
            f"b{i}: f32[8, 16] = tanh(a{i})",
            f"c{i}: f32[8, 16] = add({last}, b{i})",
        ]
        last = f"c{i}"
    head = f"def graph(x: f32[8, 16], *, {', '.join(params)}):"
    graph = filled("\n    ".join([head, *lines, f"return {last}"]))
    for i, scale in enumerate(scales):
        graph.store[f"w{i}"] = graph.store[f"w{i}"] * scale
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(3))
    found = units(graph, by="block")
    return Candidates.of(graph, Context([x], [[x]]), found, [Choice("int4-g16"), Choice()])


def test_what_changes_little_is_not_important() -> None:
    candidates = stack((0.1, 1.0, 0.3, 2.0, 0.05))
    assert [unit.block for unit in candidates.units] == [0, 1, 2, 3, 4]
    found = Similarity().importances(candidates)[1:]
    assert torch.argsort(found).tolist() == [3, 1, 0, 2]  # of the blocks after the first
    forward = Similarity().damages(candidates).damage[:, 0]
    backward = Similarity(reverse=True).damages(candidates).damage[:, 0]
    assert torch.argsort(forward).tolist() == torch.argsort(backward).tolist()[::-1]


def test_few_weights_that_stand_out_are_important() -> None:
    candidates = stack((1.0, 1.0, 1.0))
    store = candidates.graph.store
    store["w1"] = store["w1"].sign()  # many above one deviation
    sparse = torch.zeros(16, 16)
    sparse[0] = 1.0
    store["w2"] = sparse
    found = Outstanding().importances(candidates)
    wanted = [
        -float(((w - w.mean()) / w.std() > 1).double().mean())
        for w in (store["w0"], store["w1"], store["w2"])
    ]
    assert found.tolist() == pytest.approx(wanted)
    drawn = [Chance(seed=seed).importances(candidates) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_similarity_needs_blocks() -> None:
    with pytest.raises(InputError, match="compares what repeated blocks read and give"):
        Similarity().damages(sample())


def test_what_fits_nothing_is_int8_by_the_channel() -> None:
    graph = filled(
        "def graph(x: f32[8, 30], *, w: f32[64, 30]):\n    y = linear(x, w)\n    return y"
    )
    x = torch.zeros(8, 30)
    found = units(graph)
    candidates = Candidates.of(graph, Context([x]), found, [Choice("int4-g16", "dynamic")])
    assert [c for _, c in candidates.options(0)] == [Choice("int8-channel", "dynamic")]
    with pytest.raises(InputError, match="an allocation needs choices"):
        Candidates.of(graph, Context([x]), found, [])
    with pytest.raises(InputError, match="nothing to allocate bits to"):
        Candidates.of(graph, Context([x]), [], [Choice()])


def test_units_are_what_is_decided_together() -> None:
    text = """
    def graph(t: i64[6, 5], *, e: f32[40, 32], q: f32[32, 32], k: f32[32, 32], s: f32[2, 32]):
        x: f32[6, 5, 32] = embedding(e, t)
        a: f32[6, 5, 32] = linear(x, q)
        b: f32[6, 5, 32] = linear(x, k)
        c: f32[6, 5, 32] = mul(a, b)
        d: f32[6, 5, 2] = linear(c, s)
        y: f32[6, 5, 40] = linear(c, e)
        return d, y
    """
    graph = filled(text)

    def named(**options: Any) -> list[list[str]]:
        return [[r.name for r in unit.readers] for unit in units(graph, **options)]

    assert named() == [["x", "y"], ["a"], ["b"], ["d"]]
    assert named(by="value", least=100) == [["x", "y"], ["a", "b"]]
    assert named(embeddings=False, settled=["b"]) == [["a"], ["d"]]
    assert named(settled=["y"]) == [["a"], ["b"], ["d"]]  # who shares the table is settled too
    table, query = units(graph)[:2]
    assert (table.macs, query.macs) == (30 * 40 * 32, 30 * 32 * 32)
    assert table.nbytes(Choice()) == 40 * 32 + 40 * 4
    assert query.nbytes(Choice(None)) == 32 * 32 * 4
    assert query.bits(Choice("int4-g32")) == 4 + 32 / 32
