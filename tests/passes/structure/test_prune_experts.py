"""Experts left out: what is left equals the whole with their scores at minus infinity."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
import transformers as hf
from mixtures import BY_HAND, Averaged, Chosen, Dense, Loop, Scattered, Soft, Told
from torch import Tensor, nn
from torch.nn import functional as F

import regauge as rg
from regauge.backends.onnxruntime import lower
from regauge.ir import Graph, InputError, SiteError, astype
from regauge.ir.interpret import execute, flatten
from regauge.passes import (
    Context,
    DriftScore,
    OutputScore,
    PruneExperts,
    RouterScore,
    UsageScore,
    patterns,
)
from regauge.passes.structure.costs import Costs
from regauge.passes.structure.experts.mixtures import Mixture, mixtures

_TEXT = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LATENT = {
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "moe_intermediate_size": 12,
    "first_k_dense_replace": 0,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "topk_group": 1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Mixtral": {"num_local_experts": 4},
    "Qwen2Moe": {
        "num_experts": 4,
        "moe_intermediate_size": 12,
        "shared_expert_intermediate_size": 12,
    },
    "Olmoe": {"num_experts": 4},
    "DeepseekV2": {**_LATENT, "n_group": 1},
    "DeepseekV3": {**_LATENT, "n_group": 2},
    "GptOss": {"num_local_experts": 4, "head_dim": 8},
}


@functools.cache
def decoder(family: str, layers: int = 2) -> tuple[Graph, list[Any]]:
    config = getattr(hf, f"{family}Config")(
        **{**_TEXT, "num_hidden_layers": layers}, **FAMILIES[family]
    )
    torch.manual_seed(0)
    model = getattr(hf, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for param in model.parameters():
            param.normal_(0, 0.5)
    words = {"input_ids": torch.randint(0, 50, (2, 5)), "use_cache": False}
    graph = rg.trace(model, (), words)
    return astype(graph, torch.float64), flatten(graph, (), words)


def by_hand(
    make: Callable[..., nn.Module], rows: int = 20, **options: Any
) -> tuple[Graph, list[Any]]:
    torch.manual_seed(0)
    x = torch.randn(rows, 6)
    return astype(rg.trace(make(**options).eval(), (x,)), torch.float64), [x.double()]


def masked(graph: Graph, inputs: Sequence[Any], kept: Mapping[str, Sequence[int]]) -> Any:
    """The outputs where all other experts have minus infinity in what is named."""

    def tap(node: Any, value: Any) -> Any:
        if node.name not in kept:
            return None
        gone = torch.ones(value.shape[-1], dtype=torch.bool)
        gone[list(kept[node.name])] = False
        return value.masked_fill(gone, -torch.inf)

    return execute(graph, inputs, tap=tap)


def close(found: Sequence[Any], wanted: Sequence[Any]) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def is_far(found: Sequence[Any], wanted: Sequence[Any]) -> bool:
    return float((found[0] - wanted[0]).abs().max()) > 1e-2


def size(graph: Graph) -> int:
    return Costs(graph, []).parameters()


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_is_sliced_in_a_decoder(family: str) -> None:
    graph, inputs = decoder(family)
    found = mixtures(graph)[0]
    assert len(found) == 2
    stays = (0, 3) if found[0].count == 4 else (0, 2, 3, 4, 6, 7)
    kept = {mixture.name: stays for mixture in found}
    small, remarks = PruneExperts(experts=kept)(graph, Context(inputs=inputs))
    assert [r.data["kept"] for r in remarks if "kept" in r.data] == [list(stays)] * 2
    biased = {n.name: stays for n in graph.nodes if n.op == "add" and n.shape[-1:] == (8,)}
    wanted = masked(graph, inputs, {**kept, **(biased if family == "DeepseekV3" else {})})
    close(execute(small, inputs), wanted)
    assert is_far(wanted, execute(graph, inputs))
    shapes = {tuple(p.shape) for p in small.params.values()}
    assert not any(shape[:1] == (found[0].count,) for shape in shapes if len(shape) == 3)
    assert size(small) < 0.9 * size(graph)


@pytest.mark.parametrize("make", BY_HAND)
def test_masked_is_sliced_in_mixtures_by_hand(make: type[nn.Module]) -> None:
    graph, inputs = by_hand(make)
    (mixture,) = mixtures(graph)[0]
    kept = {mixture.name: (1, 3)}
    small, _ = PruneExperts(experts=kept)(graph, Context(inputs=inputs))
    wanted = masked(graph, inputs, kept)
    close(execute(small, inputs), wanted)
    assert is_far(wanted, execute(graph, inputs))
    assert size(small) < 0.65 * size(graph)


@pytest.mark.parametrize("family", ["Mixtral", "DeepseekV3", "GptOss"])
def test_runs_on_onnx_runtime(family: str) -> None:
    graph, inputs = decoder(family, layers=1)
    single = astype(graph, torch.float32)
    context = Context(inputs=inputs, calibration=[inputs])
    small, _ = PruneExperts(keep=6 if family == "DeepseekV3" else 2)(single, context)
    torch.testing.assert_close(
        lower(small)(inputs)[0], execute(small, inputs)[0], rtol=1e-3, atol=1e-4
    )


def test_symbolic_sizes_stay() -> None:
    torch.manual_seed(0)
    rows = torch.export.Dim("rows", min=2, max=64)
    graph = rg.trace(Loop().eval(), (torch.randn(5, 6),), dynamic_shapes=({0: rows},))
    (mixture,) = mixtures(graph)[0]
    small, _ = PruneExperts(experts={mixture.name: (0, 2, 3)})(graph)
    x = torch.randn(9, 6)
    wanted = masked(graph, [x], {mixture.name: (0, 2, 3)})
    torch.testing.assert_close(execute(small, [x]), wanted)


# -- scores ---------------------------------------------------------------------------------------


def scored(score: Any, graph: Graph, inputs: list[Any]) -> tuple[Mixture, torch.Tensor]:
    found = mixtures(graph)[0]
    return found[0], score.of(graph, found, Context(inputs=inputs, calibration=[inputs]))[0]


@pytest.mark.parametrize("make", [Loop, Chosen])
def test_usage_counts_choices(make: type[nn.Module]) -> None:
    graph, inputs = by_hand(make)
    _, found = scored(UsageScore(), graph, inputs)
    logits = inputs[0] @ graph.store["router_weight"].T + graph.store.get("router_bias", 0)
    wanted = torch.bincount(logits.topk(2).indices.flatten(), minlength=4) / 40
    torch.testing.assert_close(found, wanted.double())


@pytest.mark.parametrize(("active", "least"), [(1, 0.0), (2, 0.0), (2, 0.45)])
def test_router_sums_the_scores_of_the_highest(active: int, least: float) -> None:
    graph, inputs = by_hand(Loop)
    _, found = scored(RouterScore(active, least), graph, inputs)
    wanted = torch.zeros(4, dtype=torch.float64)
    for row in inputs[0] @ graph.store["router_weight"].T:
        scores, numbers = row.topk(active)
        for score, number, part in zip(scores, numbers, scores.softmax(0), strict=True):
            wanted[number] += score if part >= least else 0.0
    torch.testing.assert_close(found, wanted)


def test_drift_is_the_growth_of_the_routers_rows() -> None:
    graph, inputs = by_hand(Loop)
    before = graph.copy()
    lengths = torch.tensor([1.0, 3.0, 0.5, 2.0], dtype=torch.float64)[:, None]
    graph.store["router_weight"] = before.store["router_weight"] * lengths
    norms = before.store["router_weight"].norm(dim=1)
    for base in (before, {"router.weight": before.store["router_weight"]}):
        _, found = scored(DriftScore(base), graph, inputs)
        torch.testing.assert_close(found, (lengths[:, 0] - 1) * norms)
    with pytest.raises(InputError, match=r"the base has no router_weight and no router\.weight"):
        scored(DriftScore({}), graph, inputs)


@pytest.mark.parametrize("make", [Loop, Dense])
def test_output_is_what_is_lost(make: type[nn.Module]) -> None:
    graph, inputs = by_hand(make)
    mixture, found = scored(OutputScore(), graph, inputs)
    whole = execute(graph, inputs)[0] - inputs[0]
    for expert in range(4):
        rest = {mixture.name: [e for e in range(4) if e != expert]}
        lost = masked(graph, inputs, rest)[0] - inputs[0] - whole
        torch.testing.assert_close(found[expert], lost.square().sum() / whole.square().sum())


def test_those_that_are_worth_most_stay() -> None:
    graph, inputs = by_hand(Dense)
    mixture, worth = scored(OutputScore(), graph, inputs)
    context = Context(inputs=inputs, calibration=[inputs])
    _, remarks = PruneExperts(keep=2)(graph, context)
    assert remarks[0].data["kept"] == worth.topk(2).indices.sort().values.tolist()
    assert remarks[0].site == mixture.name


def test_globally_those_that_are_worth_least_of_all_go() -> None:
    graph, inputs = decoder("Mixtral")
    context = Context(inputs=inputs, calibration=[inputs])
    worth = torch.stack(UsageScore().of(graph, mixtures(graph)[0], context))
    _, remarks = PruneExperts(remove=0.25, over="graph", score="usage")(graph, context)
    kept = [r.data["kept"] for r in remarks if "kept" in r.data]
    kept += [[0, 1, 2, 3] for r in remarks if "all 4 experts stay" in r.text]
    assert sum(map(len, kept)) == 6
    gone = [worth[i, e] for i, own in enumerate(kept) for e in range(4) if e not in own]
    assert float(torch.stack(gone).sum()) == pytest.approx(
        float(worth.flatten().sort()[0][:2].sum())
    )


def test_tasks_have_patterns_of_their_own() -> None:
    graph, inputs = by_hand(Loop)
    (mixture,) = mixtures(graph)[0]
    towards = graph.store["router_weight"]
    tasks = {
        name: [[torch.randn(20, 6, dtype=torch.float64) * 0.1 + 5 * towards[list(own)].sum(0)]]
        for name, own in {"low": (0, 1), "high": (2, 3)}.items()
    }
    found = patterns(graph, tasks, PruneExperts(keep=2, score="usage"))
    assert {task: own[mixture.name] for task, own in found.items()} == {
        task: tuple(
            torch.bincount((rows[0][0] @ towards.T).topk(2).indices.flatten(), minlength=4)
            .topk(2)
            .indices.sort()
            .values.tolist()
        )
        for task, rows in tasks.items()
    }
    assert found["low"] != found["high"]
    small, _ = PruneExperts(experts=found["low"])(graph, Context(inputs=inputs))
    close(execute(small, tasks["low"][0]), masked(graph, tasks["low"][0], found["low"]))


# -- what is refused ------------------------------------------------------------------------------


def test_rows_must_find_as_many_as_they_take() -> None:
    graph, inputs = by_hand(Loop)
    context = Context(inputs=inputs, calibration=[inputs])
    for step in (
        PruneExperts(remove=0.75),
        PruneExperts(keep=1),
        PruneExperts(experts={"linear": (2,)}),
        PruneExperts(remove=0.75, over="graph"),
    ):
        with pytest.raises(InputError, match=r"leaves 1 .*of (the )?4 experts.* rows must find 2"):
            step(graph, context)


def test_parts_keep_as_many_each() -> None:
    graph, inputs = decoder("DeepseekV3", layers=1)
    context = Context(inputs=inputs, calibration=[inputs])
    (mixture,) = mixtures(graph)[0]
    assert (mixture.holding.parts, mixture.least) == (2, 4)
    _, remarks = PruneExperts(keep=4)(graph, context)
    assert [sum(e < 4 for e in r.data["kept"]) for r in remarks if "kept" in r.data] == [2]
    with pytest.raises(InputError, match="in 2 parts"):
        PruneExperts(keep=5)(graph, context)
    with pytest.raises(InputError, match=r"of which \[3, 1\] would stay"):
        PruneExperts(experts={mixture.name: (0, 1, 2, 4)})(graph, context)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (Averaged, "it is not known|it counts what is left out"),
        (Told, "an output of the graph tells the experts apart"),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)), "no linear layer"),
    ],
)
def test_what_cannot_be_proven_is_refused(make: Any, says: str) -> None:
    graph, inputs = by_hand(make)
    with pytest.raises(SiteError, match="PruneExperts") as raised:
        PruneExperts()(graph, Context(inputs=inputs, calibration=[inputs]))
    text = str(raised.value)
    if make is Averaged:  # all experts are taken, so there is no choice to speak of
        assert "no linear layer scores experts" in text
    else:
        assert says in text


class _Routed(Dense):
    """A choice by what a function makes of the scores."""

    def __init__(self, made: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.made = made

    def weights(self, x: Tensor) -> Tensor:
        chosen, numbers = self.made(self.router(x)).topk(self.active)
        marks = F.one_hot(numbers, self.count).to(x.dtype)
        return (marks * chosen.softmax(-1)[..., None]).sum(-2)


class _Halved(Soft):
    def weights(self, x: Tensor) -> Tensor:
        parts = super().weights(x)
        return parts / torch.linalg.vector_norm(parts, ord=-1.0, dim=-1, keepdim=True)


class _Single(Dense):
    def weights(self, x: Tensor) -> Tensor:
        return F.one_hot(self.router(x).argmax(), self.count).to(x.dtype).expand(len(x), -1)


@pytest.mark.parametrize(
    "made",
    [
        torch.relu,
        lambda x: x.clamp(-0.1, 0.1),
        lambda x: x.long().to(x.dtype),
        torch.sqrt,
        lambda x: -0.5 * x,
    ],
    ids=["relu", "clamp", "whole numbers", "no number", "turned"],
)
def test_a_choice_that_may_fall_on_what_is_left_out_is_refused(
    made: Callable[[Tensor], Tensor],
) -> None:
    graph, _ = by_hand(lambda: _Routed(made))
    found, ((_, reason),) = mixtures(graph)
    assert not found and "it is not known that it passes over" in reason.reason


def test_scores_times_a_positive_number_are_in_the_same_order() -> None:
    graph, inputs = by_hand(lambda: _Routed(lambda x: (0.2 * x).sigmoid()))
    (mixture,) = mixtures(graph)[0]
    kept = {mixture.name: (0, 2)}
    small, _ = PruneExperts(experts=kept)(graph, Context(inputs=inputs))
    close(execute(small, inputs), masked(graph, inputs, kept))


def test_what_counts_the_zeros_or_all_rows_is_no_mixture() -> None:
    assert not mixtures(by_hand(_Halved)[0])[0]
    found, ((_, reason),) = mixtures(by_hand(_Single, rows=1)[0])
    assert not found and "all rows at once" in reason.reason


def test_routers_that_are_not_there_are_no_routers() -> None:
    graph, inputs = by_hand(Soft)
    with pytest.raises(InputError, match="no mixture has a router called rooter"):
        PruneExperts(experts={"rooter": (0,)})(graph, Context(inputs=inputs))


def test_protected_and_tied_ones_stay() -> None:
    graph, inputs = by_hand(Soft)
    context = Context(inputs=inputs, calibration=[inputs])
    with pytest.raises(SiteError, match="linear_1 is protected"):
        PruneExperts(protect=("linear_1",))(graph, context)
    router = next(p for p in graph.params.values() if p.name == "router_weight")
    extra = graph.add("linear", graph.inputs[0], router)
    graph.returns(*graph.output.args, extra)
    graph.out_spec = None
    with pytest.raises(SiteError, match="it would break the tie of router_weight"):
        PruneExperts(remove=0.25)(graph, context)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"remove": 1.0}, "not the part of the experts"),
        ({"score": "luck"}, "no score 'luck'"),
        ({"score": "drift"}, "score=DriftScore"),
        ({"over": "moon"}, "no range 'moon'"),
        ({"keep": 0}, "keep=0"),
        ({"keep": 2, "over": "graph"}, 'over="mixture", or remove'),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        PruneExperts(**options)


def test_a_score_that_sees_data_needs_some() -> None:
    graph, inputs = by_hand(Loop)
    with pytest.raises(InputError, match="needs calibration data"):
        PruneExperts()(graph, Context(inputs=inputs))


def test_what_it_was_is_told_as_it_was() -> None:
    """Two mixtures that scatter into the same zeros get their own, which the model did not have."""
    model, x = nn.Sequential(Scattered(), Scattered()).eval(), torch.randn(5, 6)
    graph = rg.trace(model, (x,))
    _, remarks = PruneExperts(keep=3)(graph, Context([x], [[x]]))
    (told,) = [remark.text for remark in remarks if remark.data.get("decided")]
    assert told.startswith(f"parameters {Costs(graph, []).parameters():,} to ")
