"""Channels left out: a smaller graph, within its budget, whose readers make up for what is gone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from graphs import GROUPED, STATE, filled
from small_models import ZooModel

import regauge as rg
from regauge.ir import Graph, InputError, SiteError, astype
from regauge.ir.interpret import execute, flatten
from regauge.passes import CenterResidual, Context, FoldNormAffine, Rotate
from regauge.passes.budget import DynamicProgramming
from regauge.passes.manager import apply, difference
from regauge.passes.structure.costs import Costs
from regauge.passes.structure.elimination import Elimination, order_of_elimination
from regauge.passes.structure.groups import ROLES, Role, groups, readers
from regauge.passes.structure.width import importance
from regauge.passes.structure.width.importance import Activation, Importance, Magnitude, Taylor
from regauge.passes.structure.width.prune import Measure, Prune

HIDDEN = """
def graph(x: f64[64, 4], *, a: f64[8, 4], b: f64[8], o: f64[2, 8], c: f64[2]):
    h: f64[64, 8] = linear(x, a, b)
    z: f64[64, 8] = relu(h)
    y: f64[64, 2] = linear(z, o, c)
    return y
"""
RESIDUAL = """
def graph(x: f64[16, 4], *, a: f64[6, 4], g: f64[6], w: f64[8, 6], v: f64[6, 8], o: f64[2, 6]):
    h: f64[16, 6] = linear(x, a)
    n: f64[16, 6] = layer_norm(h, g, normalized_shape=(6,))
    f: f64[16, 8] = linear(n, w)
    e: f64[16, 8] = silu(f)
    d: f64[16, 6] = linear(e, v)
    r: f64[16, 6] = add(h, d)
    l: f64[16, 6] = layer_norm(r, normalized_shape=(6,))
    y: f64[16, 2] = linear(l, o)
    return y
"""
STACK = """
def graph(x: f64[2, 3, 8, 8], *, a: f64[8, 3, 3, 3], d: f64[8, 1, 3, 3], p: f64[6, 8, 1, 1],
          t: f64[6, 4, 2, 2], o: f64[5, 4, 1, 1]):
    h: f64[2, 8, 8, 8] = conv2d(x, a, padding=(1, 1))
    e: f64[2, 8, 8, 8] = relu(h)
    g: f64[2, 8, 8, 8] = conv2d(e, d, padding=(1, 1), groups=8)
    q: f64[2, 6, 8, 8] = conv2d(g, p)
    u: f64[2, 4, 16, 16] = conv_transpose2d(q, t, stride=(2, 2))
    y: f64[2, 5, 16, 16] = conv2d(u, o)
    return y
"""


def context(inputs: list[torch.Tensor]) -> Context:
    return Context(inputs=inputs, calibration=[inputs])


def error(graph: Graph, whole: Graph, inputs: list[torch.Tensor]) -> float:
    return difference(execute(graph, inputs), execute(whole, inputs))


def count(graph: Graph) -> int:
    return sum(graph.value(param).numel() for param in graph.params.values())


@pytest.mark.parametrize(
    ("text", "roles"),
    [
        (HIDDEN, ("hidden",)),
        (RESIDUAL, ("hidden",)),
        (STACK, ("hidden",)),
        *[(GROUPED, (role,)) for role in ("heads", "keys", "values")],
        (GROUPED, ROLES),
    ],
    ids=["hidden", "residual", "convolutions", "heads", "keys", "values", "attention"],
)
def test_what_is_counted_is_what_the_smaller_graph_has(text: str, roles: tuple[Role, ...]) -> None:
    graph, inputs = filled(text)
    step = Prune(remove=0.5, roles=roles, score="magnitude", recover=False)
    smaller, remarks = step(graph, context(inputs))
    costs = Costs(smaller, [], inputs)
    assert remarks[-1].data["parameters"] == costs.parameters() == count(smaller) < count(graph)
    assert remarks[-1].data["macs"] == costs.macs() < Costs(graph, [], inputs).macs()


def test_the_products_of_an_attention_are_counted() -> None:
    graph, inputs = filled(GROUPED)
    projections = 2 * 5 * 8 * (12 + 6 + 6 + 12)
    assert Costs(graph, [], inputs).macs() == projections + 2 * (2 * 4 * 5 * 5 * 3)


def test_a_layer_norm_keeps_its_channels_until_it_is_centred() -> None:
    graph, inputs = filled(RESIDUAL)
    _, remarks = Prune(roles=("stream",), score="magnitude", recover=False).attempt(
        graph, context(inputs)
    )
    assert any("its mean is over the channels; centre them first" in r.text for r in remarks)
    for step in (FoldNormAffine(), CenterResidual()):
        graph, _ = step.attempt(graph, context(inputs))
    smaller, _ = Prune(remove=0.5, roles=("stream",), score="magnitude", recover=False)(
        graph, context(inputs)
    )
    assert smaller["r"].shape == (16, 3)


def test_what_others_can_give_is_not_missed() -> None:
    """Half of the neurons are sums of others: nothing is lost without them."""
    graph, inputs = filled(HIDDEN.replace("relu(h)", "neg(h)"))
    mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for name in ("a", "b"):
        value = graph.store[name].clone()
        value[4:] = mix @ value[:4]
        graph.store[name] = value
    whole = graph.copy()
    recovered, _ = Prune(remove=0.5, damping=1e-12, roles=("hidden",))(graph, context(inputs))
    plain, _ = Prune(remove=0.5, recover=False, roles=("hidden",))(graph, context(inputs))
    assert recovered["o"].shape == (2, 4)
    assert error(recovered, whole, inputs) < 1e-9
    assert error(plain, whole, inputs) > 0.1


@pytest.mark.parametrize("bias", [True, False])
def test_the_readers_are_the_best_that_what_stays_allows(bias: bool) -> None:
    graph, inputs = filled(
        HIDDEN if bias else HIDDEN.replace(", c)", ")").replace(", c: f64[2]", "")
    )
    smaller, _ = Prune(remove=0.5, damping=0.0, roles=("hidden",))(graph, context(inputs))
    values: dict[str, torch.Tensor] = {}
    execute(smaller, inputs, tap=lambda node, value: values.update({node.name: value}))
    ones = torch.ones(64, int(bias), dtype=torch.float64)
    given = torch.cat([values["z"], ones], 1)
    wanted = execute(graph, inputs)[0]
    best = given @ torch.linalg.lstsq(given, wanted).solution
    torch.testing.assert_close(values["y"], best, rtol=1e-6, atol=1e-8)


def test_a_convolution_makes_up_for_channels() -> None:
    graph, inputs = filled(STACK)
    step = Prune(remove=0.5, sites=("h",), score="magnitude")
    recovered, _ = step(graph, context(inputs))
    plain, _ = replace(step, recover=False)(graph, context(inputs))
    assert error(recovered, graph, inputs) < error(plain, graph, inputs)


def test_later_readers_make_up_for_what_was_left_out_before_them() -> None:
    text = """
def graph(x: f64[256, 4], *, a: f64[8, 4], m: f64[8, 8], o: f64[2, 8]):
    h: f64[256, 8] = linear(x, a)
    z: f64[256, 8] = relu(h)
    k: f64[256, 8] = linear(z, m)
    l: f64[256, 8] = relu(k)
    y: f64[256, 2] = linear(l, o)
    return y
"""
    graph, inputs = filled(text)
    found = {
        share: error(
            Prune(remove=0.25, roles=("hidden",), share=share, damping=1e-6)(
                graph, context(inputs)
            )[0],
            graph,
            inputs,
        )
        for share in (0.0, 1.0)
    }
    assert found[1.0] < found[0.0]


def test_elimination_finds_the_least_loss_as_least_squares_does() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(100, 6, generator=generator, dtype=torch.float64)
    rows = rows @ torch.randn(6, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    wanted = rows @ weight.T
    for unit in (torch.arange(6), torch.tensor([0, 1, 2, 0, 1, 2])):
        count = int(unit.max()) + 1
        second = rows.T @ rows + 1e-9 * torch.eye(6, dtype=torch.float64)
        lost = order_of_elimination([Elimination(second, weight, unit, 0.0)], count)

        def loss(gone: tuple[int, ...], unit: torch.Tensor = unit) -> float:
            kept = rows[:, ~torch.isin(unit, torch.tensor(gone))]
            best = kept @ torch.linalg.lstsq(kept, wanted).solution
            return float((best - wanted).square().sum() / wanted.square().sum())

        first, second_gone = torch.argsort(lost)[:2].tolist()
        singles = {i: loss((i,)) for i in range(count)}
        assert first == min(singles, key=singles.__getitem__)
        assert float(lost[first]) == pytest.approx(singles[first], rel=1e-4)
        pairs = {i: loss((first, i)) for i in range(count) if i != first}
        assert second_gone == min(pairs, key=pairs.__getitem__)


def test_the_score_by_gradients_is_what_a_linear_network_loses() -> None:
    text = HIDDEN.replace("relu(h)", "neg(h)")
    graph, inputs = filled(text)
    found = groups(graph, ("hidden",))[0]
    whole = execute(graph, inputs)[0]
    (score,) = Taylor(probes=300).of(graph, found, context(inputs))
    for unit in range(8):
        less = graph.copy()
        value = less.store["o"].clone()
        value[:, unit] = 0.0
        less.store["o"] = value
        lost = (execute(less, inputs)[0] - whole).square().sum() / whole.square().sum()
        assert float(score[unit]) == pytest.approx(float(lost), rel=0.25)


def test_against_its_own_outputs_a_network_has_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why outputs are disturbed: the error from them has none at the outputs themselves (A70)."""
    graph, inputs = filled(HIDDEN)
    found = groups(graph, ("hidden",))[0]
    own = execute(graph, inputs)

    def undisturbed(outputs: Sequence[torch.Tensor], *_: object) -> list[torch.Tensor]:
        return [2 * (now - then) for now, then in zip(outputs, own, strict=True)]

    disturbed = Taylor(absolute=True).of(graph, found, context(inputs))[0]
    monkeypatch.setattr(importance, "seeds", undisturbed)
    plain = Taylor(absolute=True).of(graph, found, context(inputs))[0]
    assert float(plain.max()) == 0 < float(disturbed.min())


@pytest.mark.parametrize("score", [Magnitude(), Activation(), Taylor(absolute=True)], ids=str)
def test_a_unit_that_does_nothing_is_worth_nothing(score: Importance) -> None:
    graph, inputs = filled(HIDDEN)
    for name in ("a", "b"):
        value = graph.store[name].clone()
        value[3] = 0.0
        graph.store[name] = value
    graph.store["o"] = graph.store["o"].clone()
    graph.store["o"][:, 3] = 0.0
    found = groups(graph, ("hidden",))[0]
    (worth,) = score.of(graph, found, context(inputs))
    assert float(worth[3]) == 0 < float(worth[[0, 1, 2, 4, 5, 6, 7]].min())


def test_heads_go_with_all_that_holds_them(zoo_model: Callable[[str], ZooModel]) -> None:
    zoo = zoo_model("llama")
    graph = astype(rg.trace(zoo.model, zoo.args, zoo.kwargs), torch.float64)
    inputs = flatten(graph, zoo.args, zoo.kwargs)
    smaller, remarks = Prune(remove=0.5, roles=("heads",))(graph, context(inputs))
    assert all("heads" in r.text for r in remarks if r.applied and not r.data)
    assert count(smaller) < count(graph)
    assert execute(smaller, inputs)[0].shape == execute(graph, inputs)[0].shape


# -- budgets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "solver"), [*itertools.product(["parameters", "macs"], [None, True])]
)
def test_a_budget_is_met(of: Measure, solver: bool | None) -> None:
    graph, inputs = filled(RESIDUAL)
    solve = DynamicProgramming() if solver else None
    step = Prune(remove=0.3, of=of, roles=("hidden",), solver=solve, recover=False)
    smaller, _ = step(graph, context(inputs))
    measure = (lambda g: Costs(g, [], inputs).macs()) if of == "macs" else count
    assert measure(smaller) <= 0.7 * measure(graph)
    more, _ = Prune(remove=0.15, of=of, roles=("hidden",), solver=solve, recover=False)(
        graph, context(inputs)
    )
    assert measure(more) > measure(smaller)  # no more goes than must


def test_a_solver_takes_units_from_where_they_matter_least() -> None:
    text = """
def graph(x: f64[64, 4], *, a: f64[8, 4], m: f64[8, 8], o: f64[2, 8]):
    h: f64[64, 8] = linear(x, a)
    z: f64[64, 8] = relu(h)
    k: f64[64, 8] = linear(z, m)
    l: f64[64, 8] = relu(k)
    y: f64[64, 2] = linear(l, o)
    return y
"""
    graph, inputs = filled(text)
    value = graph.store["o"].clone()
    value[:, 2:] *= 1e-4
    graph.store["o"] = value
    step = Prune(
        remove=0.4, of="parameters", roles=("hidden",), score=Taylor(), solver=DynamicProgramming()
    )
    _, remarks = step(graph, context(inputs))
    kept = remarks[-1].data["kept"]
    assert kept["k/hidden"] < kept["h/hidden"]


def test_a_solver_takes_groups_of_different_sizes() -> None:
    text = """
def graph(x: f64[64, 4], *, a: f64[3, 4], m: f64[8, 3], o: f64[2, 8]):
    h: f64[64, 3] = linear(x, a)
    z: f64[64, 3] = relu(h)
    k: f64[64, 8] = linear(z, m)
    l: f64[64, 8] = relu(k)
    y: f64[64, 2] = linear(l, o)
    return y
"""
    graph, inputs = filled(text)
    step = Prune(0.3, "parameters", ("hidden",), solver=DynamicProgramming(), recover=False)
    smaller, _ = step(graph, context(inputs))
    assert count(smaller) <= 0.7 * count(graph)


def test_a_budget_of_latency_is_asked_for_by_the_units_that_stay() -> None:
    graph, inputs = filled(HIDDEN)

    def latency(kept: Mapping[str, int]) -> float:
        return 1.0 + 2 * kept["h/hidden"]

    step = Prune(remove=0.5, of="latency", latency=latency, roles=("hidden",), score="magnitude")
    smaller, _ = step(graph, context(inputs))
    assert smaller["h"].shape == (64, 3)  # 1 + 2 * 3 <= 17 / 2 < 1 + 2 * 4


def test_what_stays_is_a_multiple_of_what_kernels_need() -> None:
    graph, inputs = filled(HIDDEN)
    smaller, remarks = Prune(remove=0.4, multiple=4, roles=("hidden",), score="magnitude")(
        graph, context(inputs)
    )
    assert smaller["h"].shape == (64, 4)
    near = "4 of 8 channels of hidden stay, the nearest to 4.8: 4 or 8 are legal with multiple=4"
    assert near in [remark.text for remark in remarks]


def test_what_multiples_leave_of_a_budget_is_spent() -> None:
    text = """
def graph(x: f64[64, 4], *, a: f64[8, 4], m: f64[8, 8], o: f64[2, 8]):
    h: f64[64, 8] = linear(x, a)
    z: f64[64, 8] = relu(h)
    k: f64[64, 8] = linear(z, m)
    l: f64[64, 8] = relu(k)
    y: f64[64, 2] = linear(l, o)
    return y
"""
    graph, inputs = filled(text)
    step = Prune(0.3, "parameters", ("hidden",), "magnitude", multiple=4)
    smaller, _ = step(graph, context(inputs))
    assert count(graph) == 112 and count(smaller) == 72  # of 78; 40 where both groups lose half


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"remove": 1.0}, "not the part of a network"),
        ({"remove": -0.1}, "not the part of a network"),
        ({"score": "luck"}, "no score 'luck'.*\n.*'reconstruction'"),
        ({"roles": ("brains",)}, "no role 'brains'"),
        ({"of": "money"}, "no budget of 'money'"),
        ({"of": "latency"}, "needs to know it"),
        ({"multiple": 0}, "multiple=0 is not what Prune takes\n.*multiple: a whole number from 1"),
        ({"multiple": -8}, "multiple=-8 is not"),
        ({"multiple": 1.5}, "multiple=1.5 is not"),
        ({"share": 3.0}, "share=3.0 is not.*\n.*share: a number from 0 to 1"),
        ({"damping": -1.0}, "damping=-1.0 is not.*\n.*damping: a number from 0"),
        ({"damping": float("nan")}, "damping=nan is not"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Prune(**options)  # type: ignore[arg-type]


def test_a_budget_that_cannot_be_met_names_the_least() -> None:
    graph, inputs = filled(RESIDUAL)
    step = Prune(remove=0.9, of="parameters", roles=("hidden",), score="magnitude")
    with pytest.raises(InputError, match=r"as little left .* may be, 60.9 % are \(1 of 8 channels"):
        step(graph, context(inputs))


@pytest.mark.parametrize(
    ("options", "says", "most"),
    [
        ({}, "0.95 leaves none of the 8 channels of hidden of h, where 1 must stay", 0.875),
        ({"multiple": 4}, "of the 8 channels of hidden of h, where 4 must stay", 0.5),
    ],
)
def test_what_would_leave_nothing_is_refused_with_the_most_that_can_go(
    options: dict[str, int], says: str, most: float
) -> None:
    graph, inputs = filled(HIDDEN)
    step = Prune(remove=0.95, roles=("hidden",), score="magnitude", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"(?s){says}.*h: f64.*remove={most}, at most"):
        step(graph, context(inputs))
    smaller, _ = replace(step, remove=most)(graph, context(inputs))
    assert smaller["h"].shape == (64, round(8 * (1 - most)))


@pytest.mark.parametrize(
    ("options", "says", "help"),
    [
        (
            {"remove": 0.5, "multiple": 16},
            "all 8 channels of hidden stay: no multiple of 16 is below 8",
            "ask for a lesser multiple",
        ),
        (
            {"remove": 0.2, "multiple": 4},
            "all 8 channels of hidden stay, the nearest to 6.4: 4 or 8 are legal with multiple=4",
            "remove=0.5 leaves 4 of the channels of hidden of h",
        ),
    ],
)
def test_where_all_stay_that_is_missed_with_the_numbers_that_are_legal(
    options: dict[str, float], says: str, help: str
) -> None:
    graph, inputs = filled(HIDDEN)
    step = Prune(roles=("hidden",), score="magnitude", **options)  # type: ignore[arg-type]
    with pytest.raises(SiteError) as raised:
        step(graph, context(inputs))
    assert says in raised.value.where and help in raised.value.do


def test_groups_of_a_norm_go_as_a_whole_and_that_is_said() -> None:
    text = """
def graph(x: f64[2, 3, 8, 8], *, a: f64[16, 3, 3, 3], o: f64[5, 16, 1, 1]):
    h: f64[2, 16, 8, 8] = conv2d(x, a, padding=(1, 1))
    n: f64[2, 16, 8, 8] = group_norm(h, num_groups=4)
    y: f64[2, 5, 8, 8] = conv2d(n, o)
    return y
"""
    graph, inputs = filled(text)
    smaller, remarks = Prune(0.4, roles=("hidden",), score="magnitude", recover=False)(
        graph, context(inputs)
    )
    assert smaller["h"].shape == (2, 8, 8, 8)
    assert (
        "8 of 16 channels of hidden stay, the nearest to 9.6: 4, 8 or 12 are legal; groups of 4 go "
        "as a whole, as n (group_norm) norms them"
    ) in [remark.text for remark in remarks]


def test_the_floor_of_a_budget_is_that_of_the_multiple() -> None:
    graph, inputs = filled(RESIDUAL)
    step = Prune(0.9, "macs", ("hidden",), "magnitude", multiple=4)
    with pytest.raises(InputError, match=r"\(4 of 8 channels of hidden of f\)") as raised:
        step(graph, context(inputs))
    most = float(raised.value.do.partition("=")[2].partition(",")[0])
    smaller, _ = replace(step, remove=most)(graph, context(inputs))
    assert smaller["f"].shape == (16, 4)


def test_what_a_solver_leaves_of_a_budget_is_spent() -> None:
    text = """
def graph(x: f64[64, 8], *, a: f64[90, 8], m: f64[70, 90], o: f64[2, 70]):
    h: f64[64, 90] = linear(x, a)
    z: f64[64, 90] = relu(h)
    k: f64[64, 70] = linear(z, m)
    l: f64[64, 70] = relu(k)
    y: f64[64, 2] = linear(l, o)
    return y
"""
    graph, inputs = filled(text)
    step = Prune(0.3, "macs", ("hidden",), "magnitude", DynamicProgramming(), recover=False)
    smaller, _ = step(graph, context(inputs))
    budget, spent = 0.7 * Costs(graph, []).macs(), Costs(smaller, []).macs()
    h, k = (int(smaller[name].shape[1]) for name in "hk")
    assert spent <= budget < spent + 64 * min(8 + k, h + 2)  # no channel more fits


def test_an_output_that_pins_its_channels_is_named() -> None:
    graph, inputs = filled(HIDDEN)
    _, remarks = Prune(roles=("stream", "hidden"), score="magnitude")(graph, context(inputs))
    assert any(r.site == "y" and "output of the graph" in r.text for r in remarks)


@pytest.mark.parametrize("name", ["z", "o"], ids=["a value", "a weight"])
def test_protected_channels_stay(name: str) -> None:
    graph, inputs = filled(HIDDEN)
    same, remarks = Prune(protect=(name,), score="magnitude").attempt(graph, context(inputs))
    assert str(same) == str(graph)
    assert any(f"{name} is protected" in remark.text for remark in remarks)


def test_scores_from_data_need_some() -> None:
    graph, inputs = filled(HIDDEN)
    with pytest.raises(InputError, match="calibration"):
        Prune()(graph, Context(inputs=inputs))


def test_readers_are_those_that_sum_over_the_channels() -> None:
    graph, _ = filled(STACK)
    found = {g.value.name: [r.node.name for r in readers(g)] for g in groups(graph)[0]}
    assert found["h"] == ["q"]  # not the depthwise convolution, which keeps the channels apart


NORMED = """
def graph(x: f64[32, 6], *, s: f64[8, 6], g: f64[8], a: f64[12, 8], b: f64[8, 12], h: f64[8],
          o: f64[3, 8]):
    r: f64[32, 8] = linear(x, s)
    n: f64[32, 8] = rms_norm(r, g, normalized_shape=(8,), eps=1e-6)
    k: f64[32, 12] = linear(n, a)
    l: f64[32, 12] = gelu(k)
    m: f64[32, 8] = linear(l, b)
    t: f64[32, 8] = add(r, m)
    u: f64[32, 8] = rms_norm(t, h, normalized_shape=(8,), eps=1e-6)
    y: f64[32, 3] = linear(u, o)
    return y
"""


def test_a_stream_is_turned_to_its_principal_axes_and_sliced() -> None:
    """All that is in four dimensions of eight, turned, is in four channels."""
    graph, inputs = filled(NORMED)
    axes = torch.linalg.qr(graph.store["b"][:, :4]).Q
    for name in ("s", "b"):
        graph.store[name] = axes @ axes.T @ graph.store[name]
    context = Context(inputs=inputs, calibration=[inputs])
    cut = Prune(0.5, roles=("stream",), score="activation", recover=False)
    turned = [FoldNormAffine(), Rotate(residual="pca"), cut]
    errors: list[float] = []
    for steps in ([cut], turned):
        small, reports = apply(graph, steps, context, dtype=torch.float64)
        assert list(small.params["o"].shape) == [3, 4]
        errors.append(reports[-1].damage)
    assert errors[0] > 0.1 and errors[1] < 1e-6


def test_heads_that_share_a_bias_of_positions_are_one_group(
    zoo_model: Callable[[str], ZooModel],
) -> None:
    zoo = zoo_model("t5_encoder")
    graph = rg.trace(zoo.model, zoo.args, zoo.kwargs)
    context = Context(inputs=flatten(graph, zoo.args, zoo.kwargs))
    found, _ = groups(graph, ("heads",))
    assert 0 < len(found) < sum(n.op == "scaled_dot_product_attention" for n in graph.nodes)
    options = Prune(0.5, roles=("heads",), score="magnitude", recover=False)
    small, remarks = options(graph, context)
    assert [remark.applied for remark in remarks].count(True) == len(found) + 1
    assert execute(small, context.inputs)[0].shape == execute(graph, context.inputs)[0].shape


def test_heads_of_a_state_are_groups_beside_what_each_holds() -> None:
    found, stopped = groups(filled(STATE)[0])
    assert [(group.name, group.count, group.size) for group in found] == [
        ("v/hidden", 3, 1),
        ("vs/heads", 4, 1),
        ("kh/hidden", 2, 4),
    ]
    assert [value.name for value, _ in stopped] == ["y"]
