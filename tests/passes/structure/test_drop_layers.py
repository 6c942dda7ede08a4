"""Whole layers left out: which can go, which do, and what makes up for them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from graphs import filled
from small_models import ZooModel
from timed import Counting

import regauge as rg
from regauge.ir import Graph, InputError, astype
from regauge.ir.interpret import execute, flatten
from regauge.passes import Context, LayerTimes
from regauge.passes.budget import IntegerProgramming
from regauge.passes.manager import difference
from regauge.passes.structure.costs import Costs
from regauge.passes.structure.depth.changes import Change, changed
from regauge.passes.structure.depth.drop_layers import DropLayers
from regauge.passes.structure.depth.layer_scores import (
    LayerScore,
    OutputChange,
    Place,
    Position,
    Run,
    SampledChange,
    Similarity,
)
from regauge.passes.structure.depth.layers import LAYER_KINDS, LayerKind, layers, without

# Three branches over a stream; the second does nearly nothing, the third is a linear map.
STREAM = """
def graph(x: f64[64, 6], *, a: f64[8, 6], b: f64[6, 8], c: f64[8, 6], d: f64[6, 8], e: f64[6, 6],
          o: f64[3, 6]):
    h: f64[64, 8] = linear(x, a)
    i: f64[64, 8] = relu(h)
    j: f64[64, 6] = linear(i, b)
    r: f64[64, 6] = add(x, j)
    k: f64[64, 8] = linear(r, c)
    l: f64[64, 8] = relu(k)
    m: f64[64, 6] = linear(l, d)
    s: f64[64, 6] = add(r, m)
    n: f64[64, 6] = linear(s, e)
    t: f64[64, 6] = add(n, s)
    y: f64[64, 3] = linear(t, o)
    return y
"""
# Adds nothing that could go: a position table, a shifted copy of the stream.
PLAIN = """
def graph(x: f64[4, 5, 6], *, p: f64[5, 6], o: f64[3, 6]):
    h: f64[4, 5, 6] = add(x, p)
    i: f64[4, 5, 6] = relu(h)
    r: f64[4, 5, 6] = add(h, i)
    y: f64[4, 5, 3] = linear(r, o)
    return y
"""
Outputs = Callable[..., list[torch.Tensor]]


def stream(scale: float = 0.01) -> tuple[Graph, Context]:
    graph, inputs = filled(STREAM)
    graph.store["d"] = graph.store["d"] * scale
    return graph, Context(inputs=inputs, calibration=[inputs])


def names(graph: Graph, *kinds: LayerKind) -> list[str]:
    return [layer.name for layer in layers(graph, kinds or LAYER_KINDS, Costs(graph, []))]


def test_branches_are_found_from_the_additions() -> None:
    graph, context = stream()
    found = layers(graph, ("feedforward",), Costs(graph, [], context.inputs))
    assert [layer.name for layer in found] == ["j", "m", "n"]
    assert [layer.parameters for layer in found] == [96, 96, 36]
    assert [layer.macs for layer in found] == [64 * 96, 64 * 96, 64 * 36]
    assert {node.name for node in found[1].nodes} == {"k", "l", "m"}
    assert names(graph, "attention") == []
    assert names(graph, "operator") == ["n"]


def test_what_has_no_weights_of_its_own_is_no_layer() -> None:
    assert names(filled(PLAIN)[0], "attention", "feedforward") == []


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "vit"])
def test_the_branches_of_a_transformer(family: str, zoo_model: Callable[[str], ZooModel]) -> None:
    zoo = zoo_model(family)
    graph = rg.trace(zoo.model, zoo.args, zoo.kwargs)
    costs = Costs(graph, [])
    attentions = layers(graph, ("attention",), costs)
    assert len(attentions) == len(layers(graph, ("feedforward",), costs)) == zoo.layers
    assert len({layer.parameters for layer in attentions}) == 1
    inputs = flatten(graph, zoo.args, zoo.kwargs)
    less = graph.copy()
    without(less, [layer for layer in layers(less, ("attention",), costs)][:1])
    less.verify()
    assert execute(less, inputs)[0].shape == execute(graph, inputs)[0].shape
    left = sum(node.op == "scaled_dot_product_attention" for node in less.nodes)
    assert left == zoo.layers - 1


def test_nothing_is_changed_where_nothing_goes() -> None:
    graph, context = stream()
    same, _ = DropLayers(remove=0.0).attempt(graph, context)
    assert str(same) == str(graph)


@pytest.mark.parametrize(
    "score",
    [
        Similarity(),
        OutputChange(),
        OutputChange("angle"),
        OutputChange("divergence"),
        OutputChange("statistics"),
    ],
    ids=str,
)
@pytest.mark.parametrize("greedy", [False, True])
def test_what_does_least_goes_first(score: LayerScore, greedy: bool) -> None:
    graph, context = stream()
    less, remarks = DropLayers(
        remove=0.3, score=score, greedy=greedy, recover=False, kinds=("feedforward",)
    )(graph, context)
    assert remarks[-1].data["gone"] == ["m"]
    assert "k" not in [node.name for node in less.nodes]
    assert difference(execute(less, context.inputs), execute(graph, context.inputs)) < 0.1


def test_the_score_of_a_layer_is_what_leaving_it_out_changes() -> None:
    graph, context = stream(1.0)
    found = layers(graph, ("feedforward",), Costs(graph, [], context.inputs))
    for change in ("error", "angle", "divergence", "statistics"):
        scores = OutputChange(change).of(graph, found, context)
        for layer, score in zip(found, scores, strict=True):
            less = graph.copy()
            copies = layers(less, ("feedforward",), Costs(less, [], context.inputs))
            without(less, [copy for copy in copies if copy.name == layer.name])
            outputs, wanted = (list(execute(g, context.inputs)) for g in (less, graph))
            assert float(score) == pytest.approx(changed(outputs, wanted, change), rel=1e-9)


def test_under_a_budget_of_parameters_a_layer_counts_by_what_it_saves() -> None:
    """The third branch has 36 parameters of the others' 96."""
    graph, context = stream(1.0)
    whole, worth = graph.store["e"], torch.zeros(3)
    for part in torch.linspace(1, 0, 40):  # until it is worth least, and most for its size
        graph.store["e"] = whole * part
        found = layers(graph, ("feedforward",), Costs(graph, [], context.inputs))
        worth = OutputChange().of(graph, found, context)
        if worth[2] < worth[:2].min():
            break
    assert worth[2] / 36 > worth[:2].min() / 96
    for of, gone in (("layers", "n"), ("parameters", "jm"[int(worth[:2].argmin())])):
        options = DropLayers(0.1, of, score="output", greedy=True, recover=False)  # type: ignore[arg-type]
        assert options(graph, context)[1][-1].data["gone"] == [gone]


def test_one_after_another_sees_what_is_gone() -> None:
    """Two branches that do the same: each alone can go, and one of them does not."""
    text = """
def graph(x: f64[64, 6], *, a: f64[6, 6], b: f64[6, 6], c: f64[6, 6], o: f64[3, 6]):
    h: f64[64, 6] = linear(x, a)
    r: f64[64, 6] = add(x, h)
    i: f64[64, 6] = linear(x, b)
    s: f64[64, 6] = add(r, i)
    j: f64[64, 6] = linear(x, c)
    t: f64[64, 6] = add(s, j)
    y: f64[64, 3] = linear(t, o)
    return y
"""
    graph, inputs = filled(text)
    graph.store["b"] = -1.3 * graph.store["a"]
    size = graph.store["a"].norm() / 6**0.5  # between the two
    graph.store["c"] = size * torch.eye(6, dtype=torch.float64)
    context = Context(inputs=inputs, calibration=[inputs])
    step = DropLayers(remove=0.6, score="output", recover=False)
    at_once, _ = step(graph, context)
    after, _ = DropLayers(remove=0.6, score="output", recover=False, greedy=True)(graph, context)
    wanted = execute(graph, inputs)
    errors = [difference(execute(less, inputs), wanted) for less in (at_once, after)]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("change", ["error", "angle", "divergence", "statistics"])
def test_the_least_is_found_without_running_all(change: Change) -> None:
    graph, context = stream(0.3)
    generator = torch.Generator().manual_seed(2)
    batches = [[torch.randn(64, 6, generator=generator).double()] for _ in range(5)]
    context = Context(inputs=context.inputs, calibration=batches)
    found = layers(graph, ("feedforward", "operator"), Costs(graph, []))
    score = OutputChange(change, batches=5)
    worth = score.of(graph, found, context)
    index, least = score.least(graph, found, context)
    assert index == int(worth.argmin())
    assert least == pytest.approx(float(worth.min()), rel=1e-12)


def test_what_a_sampler_makes_is_scored() -> None:
    graph, context = stream(0.6)
    found = layers(graph, ("feedforward",), Costs(graph, []))

    def twice(run: Run) -> torch.Tensor:
        (first,) = run(context.inputs)
        return run([torch.cat([first, first], 1)])[0]

    for change in ("error", "statistics"):
        scores = SampledChange(twice, change).of(graph, found, context)
        for layer, score in zip(found, scores, strict=True):
            less, _ = DropLayers(0.5, sites=(layer.name,), score="position", recover=False)(graph)
            values = [twice(lambda inputs, g=g: execute(g, inputs)) for g in (less, graph)]
            assert float(score) == pytest.approx(changed(values[:1], values[1:], change), rel=1e-9)


@pytest.mark.parametrize(
    ("drop", "order"),
    [
        ("top", [5, 4, 3, 2, 1, 0]),
        ("bottom", [0, 1, 2, 3, 4, 5]),
        ("symmetric", [2, 3, 1, 4, 0, 5]),
        ("alternate", [4, 2, 0, 5, 3, 1]),
    ],
)
def test_layers_by_their_place(drop: Place, order: list[int]) -> None:
    graph, context = stream()
    layer = layers(graph, ("feedforward",), Costs(graph, []))[0]
    worth = Position(drop).of(graph, [layer] * 6, context)
    assert torch.argsort(worth, stable=True).tolist() == order


@pytest.mark.parametrize("family", ["llama", "vit"])
@pytest.mark.parametrize("kept", [1, 3])
def test_the_first_blocks_are_the_model_with_so_many(
    family: str, kept: int, zoo_model: Callable[[str], ZooModel], graph_outputs: Outputs
) -> None:
    """With the norm and the head behind them: what an exit after so many blocks gives."""
    zoo, models = zoo_model(family), list[torch.nn.Module]()
    for count in (4, kept):
        config: Any = copy.deepcopy(zoo.model.config)
        config.num_hidden_layers = count
        torch.manual_seed(0)
        models.append(type(zoo.model)(config).eval())  # type: ignore[call-arg]
    whole, few = models
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    few.load_state_dict({name: whole.state_dict()[name] for name in few.state_dict()})
    graph, wanted = (astype(rg.trace(m, zoo.args, zoo.kwargs), torch.float64) for m in models)
    step = DropLayers(1 - kept / 4, kinds=("block",), score="position", recover=False)
    first, remarks = step(graph)
    assert len(remarks[-1].data["gone"]) == 4 - kept
    assert len(first.params) == len(wanted.params)
    found, right = (graph_outputs(g, zoo.args, zoo.kwargs) for g in (first, wanted))
    assert difference(found, right) < 1e-9
    assert difference(graph_outputs(graph, zoo.args, zoo.kwargs), right) > 1e-3


def test_a_knapsack_takes_what_does_least_for_its_size() -> None:
    graph, context = stream(0.6)
    total = Costs(graph, [], context.inputs).parameters()
    step = DropLayers(
        remove=90 / total, of="parameters", score="output", solver=IntegerProgramming()
    )
    _, remarks = step(graph, context)
    scores = remarks[-1].data["scores"]
    fits = [name for name in ("j", "m")]  # the third has 36 parameters
    assert remarks[-1].data["gone"] == [min(fits, key=scores.__getitem__)]


def test_a_knapsack_lets_one_go_of_layers_that_lie_in_each_other() -> None:
    """A linear map that is a branch is an operator of its own as well."""
    graph, context = stream(0.6)
    total = Costs(graph, [], context.inputs).parameters()
    step = DropLayers(
        remove=37 / total,
        of="parameters",
        kinds=("feedforward", "operator"),
        score="output",
        solver=IntegerProgramming(),
        protect=("j",),
    )
    less, remarks = step(graph, context)
    assert remarks[-1].data["gone"] == ["m"]
    assert Costs(less, []).parameters() == total - 96


def test_a_budget_counts_what_lies_in_another_once() -> None:
    graph, context = stream()
    step = DropLayers(0.75, "parameters", kinds=("feedforward", "operator"), recover=False)
    less, _ = step(graph, context)
    assert Costs(less, []).parameters() <= 0.25 * Costs(graph, []).parameters()


# -- to a latency ---------------------------------------------------------------------------------


def times(graph: Graph, context: Context, *kinds: LayerKind) -> LayerTimes:
    """A second a product."""
    on = Counting()
    return LayerTimes.on(on, graph, context.inputs, kinds, rounds=3, clock=on.clock)


def test_layers_that_are_alike_are_timed_together() -> None:
    graph, context = stream()
    on = Counting()
    found = LayerTimes.on(on, graph, context.inputs, rounds=2, clock=on.clock)
    assert on.ran == [3] * 3  # the whole, without the first two, without the third
    assert found.layers == {"j": 64 * 96, "m": 64 * 96, "n": 64 * 36}
    assert found([]) == found.whole == Costs(graph, []).macs() + 1.5
    assert found(["j", "n"]) == found.whole - 64 * (96 + 36)
    with pytest.raises(InputError, match="no time is known of t"):
        found(["t"])


@pytest.mark.parametrize(
    "options",
    [{}, {"greedy": True, "score": "output"}, {"solver": IntegerProgramming()}],
    ids=["at once", "greedy", "solver"],
)
@pytest.mark.parametrize("kinds", [("feedforward",), ("feedforward", "operator")], ids=str)
def test_a_budget_of_latency_is_met(kinds: tuple[LayerKind, ...], options: Any) -> None:
    graph, context = stream()
    table = times(graph, context, *kinds)
    step = DropLayers(0.5, "latency", kinds, latency=table, recover=False, **options)
    less, remarks = step(graph, context)
    spent = Costs(less, []).macs() + table.whole - Costs(graph, []).macs()
    assert remarks[-1].data["latency_before"] == table.whole
    assert remarks[-1].data["latency"] == pytest.approx(spent)
    assert spent <= 0.5 * table.whole
    assert f"latency {table.whole:.4g} to {spent:.4g} (-" in remarks[-1].text


def test_a_budget_of_latency_by_a_function() -> None:
    """Times that do not add up: two layers that are left out together save more."""
    graph, context = stream()
    step = DropLayers(0.4, "latency", latency=lambda gone: 10.0 - len(gone) ** 2, recover=False)
    _, remarks = step(graph, context)
    assert len(remarks[-1].data["gone"]) == 2 and remarks[-1].data["latency"] == 6.0
    with pytest.raises(InputError, match=r"95 % of the latency cannot be .* have 90 %") as raised:
        replace(step, remove=0.95)(graph, context)
    assert raised.value.do.startswith("less than remove=0.9,")


# -- making up -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_is_made_up_for_exactly_where_that_is_possible(bias: bool) -> None:
    """s = r + m and t = s + s e': with r = 0, t is a map of m."""
    text = """
def graph(x: f64[64, 6], z: f64[64, 6], *, d: f64[6, 6], f: f64[6], e: f64[6, 6], g: f64[6],
          o: f64[3, 6]):
    m: f64[64, 6] = linear(x, d, f)
    s: f64[64, 6] = add(z, m)
    n: f64[64, 6] = linear(s, e, g)
    t: f64[64, 6] = add(s, n)
    y: f64[64, 3] = linear(t, o)
    return y
"""
    if not bias:
        text = text.replace(", f)", ")").replace(", g)", ")")
        text = text.replace(" f: f64[6],", "").replace(" g: f64[6],", "")
    graph, inputs = filled(text)
    inputs[1] = torch.zeros_like(inputs[1])
    context = Context(inputs=inputs, calibration=[inputs])
    less, remarks = DropLayers(remove=0.5, sites=("n",), damping=0.0).attempt(graph, context)
    assert "n" not in [node.name for node in less.nodes]
    assert any("m makes up for it" in remark.text for remark in remarks)
    torch.testing.assert_close(execute(less, inputs), execute(graph, inputs))


def test_gaps_are_bridged_one_after_another() -> None:
    graph, context = stream(1.0)
    wanted = execute(graph, context.inputs)
    errors: list[float] = []
    for recover in (True, False):
        step = DropLayers(remove=0.6, sites=("m", "n"), recover=recover, damping=1e-6)
        errors.append(difference(execute(step(graph, context)[0], context.inputs), wanted))
    assert errors[0] < 0.5 * errors[1]


# Two branches of convolutions, of which the second is gone; its stream may be read elsewhere.
CONVOLUTIONS = """
def graph(x: f64[16, 3, 6, 6], z: f64[16, 4, 6, 6], *, a: f64[4, 3, 3, 3], b: f64[4], c: f64[4, 4],
          d: f64[4], o: f64[2, 8, 1, 1]):
    m: f64[16, 4, 6, 6] = conv2d(x, a, b, padding=(1, 1))
    s: f64[16, 4, 6, 6] = add(z, m)
    p: f64[16, 6, 6, 4] = permute(s, dims=(0, 2, 3, 1))
    l: f64[16, 6, 6, 4] = linear(p, c, d)
    n: f64[16, 4, 6, 6] = permute(l, dims=(0, 3, 1, 2))
    t: f64[16, 4, 6, 6] = add(s, n)
    u: f64[16, 8, 6, 6] = cat([t, z], dim=1)
    y: f64[16, 2, 6, 6] = conv2d(u, o)
    return y
"""


def test_a_convolution_makes_up_for_what_is_a_map_of_its_channels() -> None:
    graph, inputs = filled(CONVOLUTIONS)
    batches = [[inputs[0], torch.zeros_like(inputs[1])]]
    batches.append([filled(CONVOLUTIONS, seed=2)[1][0], batches[0][1]])
    context = Context(inputs=batches[0], calibration=batches)
    less, remarks = DropLayers(0.5, sites=("n",), damping=0.0)(graph, context)
    assert any("m makes up for it" in remark.text for remark in remarks)
    for batch in batches:
        torch.testing.assert_close(execute(less, batch), execute(graph, batch))


def test_a_value_that_is_read_elsewhere_is_left_as_it_is() -> None:
    graph, inputs = filled(CONVOLUTIONS.replace("cat([t, z]", "cat([t, s]"))
    context = Context(inputs=inputs, calibration=[inputs])
    bridged, remarks = DropLayers(0.5, sites=("n",))(graph, context)
    plain, _ = DropLayers(0.5, sites=("n",), recover=False)(graph, context)
    assert any("nothing makes up for it: u reads s as it is" in r.text for r in remarks)
    torch.testing.assert_close(execute(bridged, inputs), execute(plain, inputs))


def test_a_gap_within_a_layer_that_goes_needs_nothing() -> None:
    text = """
def graph(x: f64[64, 6], z: f64[64, 6], *, a: f64[6, 6], b: f64[6, 6], c: f64[6, 6], d: f64[6, 6]):
    s: f64[64, 6] = linear(z, d)
    p: f64[64, 6] = add(x, s)
    h: f64[64, 6] = linear(p, a)
    e: f64[64, 6] = linear(z, b)
    g: f64[64, 6] = add(h, e)
    i: f64[64, 6] = relu(g)
    j: f64[64, 6] = linear(i, c)
    r: f64[64, 6] = add(p, j)
    return r
"""
    graph, inputs = filled(text)
    context = Context(inputs=inputs, calibration=[inputs])
    both, remarks = DropLayers(0.9, kinds=("feedforward",), sites=("e", "j"))(graph, context)
    outer, _ = DropLayers(0.5, kinds=("feedforward",), sites=("j",))(graph, context)
    assert len(remarks[-1].data["gone"]) == 2
    torch.testing.assert_close(execute(both, inputs), execute(outer, inputs))


def test_strong_damping_is_plain_dropping() -> None:
    graph, context = stream(1.0)
    plain, _ = DropLayers(remove=0.3, recover=False)(graph, context)
    held, _ = DropLayers(remove=0.3, damping=1e12)(graph, context)
    torch.testing.assert_close(execute(plain, context.inputs), execute(held, context.inputs))


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"remove": 1.0}, "not the part of a network"),
        ({"score": "luck"}, "no score 'luck'"),
        ({"kinds": ("thoughts",)}, "no kind of layers 'thoughts'"),
        ({"of": "money"}, "no budget of 'money'"),
        ({"of": "latency"}, r"(?s)a budget of latency needs to know it.*LayerTimes\.on"),
        ({"damping": -1.0}, "damping=-1.0 is not what DropLayers takes"),
        ({"greedy": True, "solver": IntegerProgramming()}, "no use of a solver"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        DropLayers(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{}, {"greedy": True}, {"of": "parameters"}, {"of": "macs", "solver": IntegerProgramming()}],
    ids=str,
)
def test_what_would_leave_no_layer_is_refused_with_the_most_that_can_go(
    options: dict[str, Any],
) -> None:
    graph, context = stream()
    step = DropLayers(0.92, score="output", recover=False, **options)
    with pytest.raises(InputError, match="leaves out all 3 layers that can go") as raised:
        step(graph, context)
    most = float(raised.value.do.partition("=")[2].partition(",")[0])
    _, remarks = replace(step, remove=most)(graph, context)
    assert len(remarks[-1].data["gone"]) == 2
    every = {layer.name for layer in layers(graph, step.kinds, Costs(graph, []))}
    _, remarks = replace(step, remove=0.0001, sites=(min(every),))(graph, context)
    assert remarks[-1].data["gone"] == [min(every)]  # one that is asked for by name may go


def test_a_budget_beyond_all_layers() -> None:
    graph, context = stream()
    with pytest.raises(InputError, match=r"all layers that can go have 92.7 %"):
        DropLayers(remove=0.95, of="parameters")(graph, context)


def test_a_protected_layer_stays() -> None:
    graph, context = stream()
    _, remarks = DropLayers(remove=0.3, protect=("m",))(graph, context)
    assert "m" not in remarks[-1].data["gone"]
    assert any("m is protected" in remark.text for remark in remarks)


def test_half_precision_is_scored_in_single() -> None:
    graph, context = stream(0.1)
    single = astype(graph, torch.float32)
    inputs = [value.float() for value in context.inputs]
    _, remarks = DropLayers(remove=0.3)(single, Context(inputs=inputs, calibration=[inputs]))
    assert remarks[-1].data["gone"] == ["m"]
