"""Experts merged: exact where those of a cluster are equal, in whatever order of their neurons."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mixtures import Chosen, Compared, Dense, Joined, Looked, Loop, Masked, Scattered, Soft, Stacked
from small_models import ZooModel
from torch import Tensor, nn
from torch.nn import functional as F

import regauge as rg
from regauge.backends.onnxruntime import lower
from regauge.ir import Graph, InputError, SiteError, astype
from regauge.ir.interpret import execute, flatten
from regauge.passes import Context, MergeExperts, Prune
from regauge.passes.manager import difference
from regauge.passes.structure.costs import Costs
from regauge.passes.structure.experts.mixtures import mixtures
from regauge.passes.structure.groups import groups


@pytest.fixture(scope="module")
def mixtral(zoo_model: Callable[[str], ZooModel]) -> Callable[[], tuple[Graph, list[Any]]]:
    zoo = zoo_model("mixtral")
    graph = astype(rg.trace(zoo.model, zoo.args, zoo.kwargs), torch.float64)
    return functools.partial(lambda: (graph.copy(), flatten(graph, zoo.args, zoo.kwargs)))


def by_hand(make: type[nn.Module]) -> tuple[Graph, list[Any]]:
    torch.manual_seed(0)
    x = torch.randn(20, 6)
    return astype(rg.trace(make().eval(), (x,)), torch.float64), [x.double()]


def made_alike(graph: Graph, pairs: dict[int, int]) -> None:
    """Give experts the weights of others, with their neurons in another order."""
    for mixture in mixtures(graph)[0]:
        stacks = [n.args[1] for n, p in mixture.holding.taken if n.op == "grouped_mm" and p == (1,)]
        up, down = (graph.store[param.name].clone() for param in stacks)
        size = down.shape[1]
        order = torch.randperm(size, generator=torch.Generator().manual_seed(1))
        for copy, of in pairs.items():
            up[copy] = up[of][:, torch.cat([order, order + size])]
            down[copy] = down[of][order]
        graph.store[stacks[0].name], graph.store[stacks[1].name] = up, down


@pytest.mark.parametrize("by", ["outputs", "weights"])
def test_equal_experts_are_merged_exactly(mixtral: Any, by: Any) -> None:
    graph, inputs = mixtral()
    made_alike(graph, {2: 0, 3: 1})
    context = Context(inputs=inputs, calibration=[inputs])
    merged, remarks = MergeExperts(keep=2, by=by)(graph, context)
    clusters = [r.data["clusters"] for r in remarks if "clusters" in r.data]
    assert [sorted(some) for some in clusters] == [[[0, 2], [1, 3]]] * 2
    assert difference(execute(merged, inputs), execute(graph, inputs)) < 1e-9
    assert Costs(merged, []).parameters() < 0.75 * Costs(graph, []).parameters()
    plain, _ = MergeExperts(keep=2, by="outputs", align=False)(graph, context)
    assert difference(execute(plain, inputs), execute(graph, inputs)) > 1e-2


@pytest.mark.parametrize("make", [Dense, Compared, Looked])
def test_equal_experts_are_merged_exactly_in_stacks_by_hand(make: type[nn.Module]) -> None:
    graph, inputs = by_hand(make)
    for name, experts in (("up", None), ("down", None), ("b", None), ("bias", None)):
        if name in graph.params:
            value = graph.store[name].clone()
            whole = value.reshape(4, -1)
            whole[2:] = whole[:2]
            graph.store[name] = whole.reshape(value.shape)
        assert experts is None
    context = Context(inputs=inputs, calibration=[inputs])
    merged, _ = MergeExperts(keep=2)(graph, context)
    assert difference(execute(merged, inputs), execute(graph, inputs)) < 1e-9
    assert Costs(merged, []).parameters() < 0.65 * Costs(graph, []).parameters()


class Marked(Loop):
    """Weights of an expert by marks of all numbers, of which each takes its own."""

    def forward(self, x: Tensor) -> Tensor:
        weights, numbers = self.router(x).softmax(-1).topk(self.active)
        marks = F.one_hot(numbers, len(self.experts)).permute(2, 0, 1)
        given = [(weights * marks[e]).sum(-1, keepdim=True) for e in range(len(self.experts))]
        return x + sum(w * f(x) for w, f in zip(given, self.experts, strict=True))


class Once(Loop):
    """An expert counts once for a row, however often its number was chosen."""

    def forward(self, x: Tensor) -> Tensor:
        numbers = self.router(x).topk(self.active).indices
        taken = [(numbers == e).any(-1, keepdim=True) for e in range(len(self.experts))]
        return x + sum(t * f(x) for t, f in zip(taken, self.experts, strict=True))


class Wider(Loop):
    """One of the experts has more neurons."""

    def __init__(self) -> None:
        super().__init__()
        experts: Any = self.experts
        experts[2] = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 6))


class Deeper(Loop):
    """One of the experts has a layer more."""

    def __init__(self) -> None:
        super().__init__()
        experts: Any = self.experts
        experts[3].append(nn.Linear(6, 6))


class Other(Loop):
    """One of the experts computes something else."""

    def __init__(self) -> None:
        super().__init__()
        experts: Any = self.experts
        experts[1][1] = nn.ReLU()


class Favoured(Loop):
    """One of the experts counts twice."""

    def forward(self, x: Tensor) -> Tensor:
        weights, numbers = self.router(x).softmax(-1).topk(self.active)
        given = [(weights * (numbers == e)).sum(-1, keepdim=True) for e in range(4)]
        factors = [0.5, 2.0, 0.5, 0.5]
        given = [factor * weight for factor, weight in zip(factors, given, strict=True)]
        return x + sum(w * f(x) for w, f in zip(given, self.experts, strict=True))


def layers_made_alike(model: nn.Module, pairs: dict[int, int]) -> None:
    """Give experts the layers of others, with their neurons in another order."""
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    experts: Any = model.experts
    with torch.no_grad():
        for copy, of in pairs.items():
            experts[copy].load_state_dict(experts[of].state_dict())
            up, _, down = experts[copy]
            for tensor in (up.weight, up.bias):
                tensor.copy_(tensor[order])
            down.weight.copy_(down.weight[:, order])


@pytest.mark.parametrize("by", ["outputs", "weights"])
@pytest.mark.parametrize("make", [Loop, Marked, Masked, Joined])
def test_equal_layers_of_experts_own_are_merged_exactly(make: type[Loop], by: Any) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(20, 6)
    layers_made_alike(model, {2: 0, 3: 1})
    graph = astype(rg.trace(model, (x,)), torch.float64)
    inputs = [x.double()]
    context = Context(inputs=inputs, calibration=[inputs])
    merged, remarks = MergeExperts(keep=2, by=by)(graph, context)
    clusters = [r.data["clusters"] for r in remarks if "clusters" in r.data]
    assert [sorted(some) for some in clusters] == [[[0, 2], [1, 3]]]
    assert difference(execute(merged, inputs), execute(graph, inputs)) < 1e-9
    assert sum(node.op == "gelu" for node in merged.nodes) == 2
    plain, _ = MergeExperts(keep=2, by="outputs", align=False)(graph, context)
    assert difference(execute(plain, inputs), execute(graph, inputs)) > 1e-3


class Weighed(Loop):
    """Results of experts, weighed in some way by ``[rows, places]`` weights and marks."""

    def __init__(self, weigh: Callable[[Tensor, Tensor, Tensor], Tensor], active: int) -> None:
        super().__init__(active=active)
        self.weigh = weigh

    def forward(self, x: Tensor) -> Tensor:
        weights, numbers = self.router(x).softmax(-1).topk(self.active)
        given = [self.weigh(weights, numbers == e, f(x)) for e, f in enumerate(self.experts)]
        return x + sum(given)


@pytest.mark.parametrize("active", [1, 2, 3])
@pytest.mark.parametrize(
    ("weigh", "adds_up"),
    [
        (lambda w, m, y: (w * m).mean(-1, keepdim=True) / 2 * y, True),
        (lambda w, m, y: -(torch.where(m, w, 0.0).sum(-1, keepdim=True) * y), True),
        (lambda w, m, y: (w * m).pow(2).sum(-1, keepdim=True) * y, True),
        (lambda w, m, y: m.long().sum(-1, keepdim=True) * y, True),
        (lambda w, m, y: (w * m).sum(-1, keepdim=True).pow(2) * y, False),
        (lambda w, m, y: (w * m).amax(-1, keepdim=True) * y, False),
        (lambda w, m, y: m.sum(-1, keepdim=True).bool() * y, False),
        (lambda w, m, y: ((w * m).sum(-1, keepdim=True) * y).relu(), False),
    ],
    ids=["mean", "where", "squares", "counts", "square", "greatest", "whether", "relu"],
)
def test_what_adds_up_is_merged_exactly_and_nothing_else(
    weigh: Any, adds_up: bool, active: int
) -> None:
    """A row that takes one expert takes one of a cluster at most, whatever becomes of its mark."""
    torch.manual_seed(0)
    model, x = Weighed(weigh, active).eval(), torch.randn(20, 6)
    layers_made_alike(model, {2: 0, 3: 1})
    graph = astype(rg.trace(model, (x,)), torch.float64)
    inputs = [x.double()]
    step, context = MergeExperts(keep=2), Context(inputs=inputs, calibration=[inputs])
    if adds_up or active == 1:
        merged, _ = step(graph, context)
        assert difference(execute(merged, inputs), execute(graph, inputs)) < 1e-9
        return
    with pytest.raises(SiteError, match="two experts of one cluster would have that one once"):
        step(graph, context)


def test_layers_are_averaged_by_usage() -> None:
    graph, inputs = by_hand(Loop)
    merged, _ = MergeExperts(keep=1, align=False)(graph, Context(inputs, [inputs]))
    logits = inputs[0] @ graph.store["router_weight"].T
    usage = torch.bincount(logits.topk(2).indices.flatten(), minlength=4).double()
    weights = torch.stack([graph.store[f"experts_{e}_0_weight"] for e in range(4)])
    wanted = torch.einsum("e,eoi->oi", usage / usage.sum(), weights)
    (found,) = (v for n, v in merged.store.tensors.items() if n.endswith("_0_weight"))
    torch.testing.assert_close(found, wanted)


def test_the_merged_expert_is_the_mean_by_usage(mixtral: Any) -> None:
    graph, inputs = mixtral()
    context = Context(inputs=inputs, calibration=[inputs])
    merged, _ = MergeExperts(keep=1, align=False)(graph, context)
    wanted = graph.copy()
    for mixture in mixtures(wanted)[0]:
        numbers: list[torch.Tensor] = []
        chosen = mixture.chosen[0].name
        execute(graph, inputs, tap=lambda n, v: numbers.append(v) if n.name == chosen else None)  # noqa: B023
        usage = torch.bincount(numbers[0].flatten(), minlength=4).double()
        for node, port in mixture.holding.taken:
            if node.op == "grouped_mm" and port == (1,):
                value = wanted.store[node.args[1].name]
                mean = torch.einsum("e,eio->io", usage / usage.sum(), value)
                wanted.store[node.args[1].name] = mean.expand_as(value).contiguous()
    assert difference(execute(merged, inputs), execute(wanted, inputs)) < 1e-9


def test_runs_on_onnx_runtime(mixtral: Any) -> None:
    graph, inputs = mixtral()
    single = astype(graph, torch.float32)
    merged, _ = MergeExperts(keep=3)(single, Context(inputs=inputs, calibration=[inputs]))
    torch.testing.assert_close(
        lower(merged)(inputs)[0], execute(merged, inputs)[0], rtol=1e-3, atol=1e-4
    )


def test_hidden_neurons_of_experts_are_channels_that_can_go(mixtral: Any) -> None:
    """Slimming is ``Prune``'s: what is masked in the stacks equals what is left of them."""
    graph, inputs = mixtral()
    inside = [g for g in groups(graph, ("hidden",))[0] if any(n.op == "grouped_mm" for n in g)]
    assert [group.count for group in inside] == [48, 48]
    names = tuple(group.value.name for group in inside)
    step = Prune(remove=0.5, score="magnitude", roles=("hidden",), recover=False, sites=names)
    context = Context(inputs=inputs, calibration=[inputs])
    slim, _ = step(graph, context)
    scores = step.score
    assert scores == "magnitude"
    masked = graph.copy()
    for small in (p for p in slim.params.values() if len(p.shape) == 3):
        whole, left = masked.store[small.name].clone(), slim.store[small.name]
        if whole.shape[1] != left.shape[1]:  # the neurons are read
            stays = [any(torch.equal(row, kept) for kept in left[0]) for row in whole[0]]
            whole[:, ~torch.tensor(stays)] = 0
            masked.store[small.name] = whole
    assert difference(execute(slim, inputs), execute(masked, inputs)) < 1e-9
    assert difference(execute(slim, inputs), execute(graph, inputs)) > 1e-2


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (Soft, "its rows take all experts"),
        (Wider, "linear_5 (linear): expert 2 differs here from expert 0's linear_1"),
        (Deeper, "linear_9 (linear): expert 3 differs here from expert 0's mul_1"),
        (Other, "relu (relu): expert 1 differs here from expert 0's gelu"),
        (Favoured, "mul_5 (mul): expert 1 reads other values here than expert 0's mul_4"),
        (Once, "any (any): a row that takes two experts of one cluster would have that one once"),
        (Stacked, "overwrite each other"),
        (Scattered, "overwrite each other"),
        (lambda: nn.Linear(6, 6), "no linear layer scores experts"),
    ],
)
def test_what_cannot_be_merged_stays(make: Any, says: str) -> None:
    graph, inputs = by_hand(make)
    text = str(graph)
    with pytest.raises(SiteError) as raised:
        MergeExperts()(graph, Context(inputs=inputs, calibration=[inputs]))
    assert says in str(raised.value)
    assert str(graph) == text


@pytest.mark.parametrize("which", ["router", "experts"])
def test_a_protected_mixture_stays(mixtral: Any, which: str) -> None:
    graph, inputs = mixtral()
    context = Context(inputs=inputs, calibration=[inputs])
    first, *others = mixtures(graph)[0]
    held = (node for node in graph.nodes if node.op == "grouped_mm")
    name = first.name if which == "router" else next(held).args[1].name
    _, remarks = MergeExperts(protect=(name,))(graph, context)
    missed = {remark.site: remark.text for remark in remarks if not remark.applied}
    assert missed == {first.name: f"{name} is protected"}
    assert {r.site for r in remarks if r.applied} >= {mixture.name for mixture in others}


def test_what_would_leave_no_expert_is_refused_with_the_most_that_can_go() -> None:
    graph, inputs = by_hand(Stacked)
    with pytest.raises(InputError, match=r"(?s)leaves none of the 4 experts.*remove=0.75, at most"):
        MergeExperts(0.99)(graph, Context(inputs=inputs, calibration=[inputs]))


def test_experts_that_are_chosen_one_after_the_other_are_not_merged() -> None:
    graph, inputs = by_hand(Chosen)
    step = MergeExperts(0.5, sites=("linear_1",))
    with pytest.raises(SiteError, match="a merged one would be twice"):
        step(graph, Context(inputs=inputs, calibration=[inputs]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"remove": -0.1}, "not the part of the experts"),
        ({"keep": 0}, "keep=0 is not"),
        ({"by": "luck"}, "no likeness by 'luck'"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        MergeExperts(**options)
