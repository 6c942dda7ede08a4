"""What passes do to the state of decoders: caches go with their attentions, lose heads, and are
kept in other bases; text is that of the same passes without a cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import transformers as hf
from small_models import zoo_model
from torch import Tensor

import regauge as rg
from regauge.ir import Graph, GraphError, InputError, parse
from regauge.ir.state import find_caches, find_state
from regauge.passes import (
    CacheInputs,
    CenterResidual,
    CloseState,
    Context,
    Distill,
    FoldNormAffine,
    FuseBlocks,
    OpenState,
    Parallelize,
    Pass,
    Promise,
    Prune,
    Quantize,
    QuantizeCache,
    Remark,
    Rotate,
    Stage,
)
from regauge.passes.base import applied
from regauge.passes.fitting import Fitter
from regauge.passes.structure.costs import Costs
from regauge.passes.structure.depth.drop_layers import DropLayers
from regauge.passes.structure.depth.layers import LayerKind, layers, without

NEW = 9
GRAPH = """
def graph(x: f64[2, 3, 5, 4], past: f64[2, 3, p, 4]):
    assert 0 <= p
    cat: f64[2, 3, p + 5, 4] = cat((past, x), dim=2)
    y: f64[2, 3, p + 5, 4] = relu(cat)
    return y, cat
"""


@dataclass(frozen=True)
class Without(Pass):
    """Leave out one layer of a kind."""

    kind: LayerKind
    place: int
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        layer = layers(graph, (self.kind,), Costs(graph, [], context.inputs))[self.place]
        return [applied(by, "stands for it") for by in without(graph, [layer]).values()]


def prompts(batch: int, length: int) -> Tensor:
    return torch.randint(3, 99, (batch, length), generator=torch.Generator().manual_seed(batch))


def text_without_a_cache(model: Any, step: Pass, ids: Tensor) -> Tensor:
    length = torch.export.Dim("length", min=2, max=64)
    art = rg.compile(
        model,
        (),
        {"input_ids": ids, "use_cache": False},
        passes=[step],
        dynamic_shapes={"input_ids": {1: length}, "use_cache": None},
        target="torch",
    )
    for _ in range(NEW):
        ids = torch.cat([ids, art(ids).logits[:, -1:].argmax(-1)], 1)
    return ids


@pytest.mark.parametrize(
    ("name", "kind", "place"),
    [
        ("llama", "attention", 0),
        ("llama", "block", -1),
        ("gpt2", "block", 0),
        ("opt", "attention", -1),
        ("gemma2", "attention", 0),  # written out, and a cache that attention as one op has not
        ("gemma2", "block", -1),
    ],
)
def test_text_is_that_of_the_graph_without_the_layer(
    name: str, kind: LayerKind, place: int, tmp_path: Path
) -> None:
    model, ids, step = zoo_model(name).model, prompts(2, 8), Without(kind, place)
    art = rg.compile(model, ids, passes=[step], cache=True)
    found = art.generate(ids, max_new_tokens=NEW, eos_token_id=())
    assert torch.equal(found, text_without_a_cache(model, step, ids))
    art.save(tmp_path)
    again = rg.load(tmp_path)
    assert torch.equal(again.generate(ids, max_new_tokens=NEW, eos_token_id=()), found)
    head = again(input_ids=ids[:, :3])
    rest = again(input_ids=ids[:, 3:], past_key_values=head.past_key_values)
    torch.testing.assert_close(rest.logits, art(ids).logits[:, 3:], rtol=1e-4, atol=1e-5)


def test_keys_and_values_go_with_the_attention_that_reads_them() -> None:
    model, ids = zoo_model("llama").model, prompts(2, 8)
    whole = rg.compile(model, ids, passes=[], cache=True, measure=False)
    art = rg.compile(model, ids, passes=[Without("attention", 0)], cache=True)
    assert len(find_caches(whole.graph)) == 4
    assert [cache.past.name for cache in find_caches(art.graph)] == [
        "past_key_values_1_0",
        "past_key_values_1_1",
    ]
    assert not any("self_attn" in name and "_0_" in name for name in art.graph.params)
    assert not [note for note in art.report.notes if note.startswith("caches are copied")]
    assert [error.name for error in art.report.errors] == ["logits"]


def test_the_last_cache_stays_as_long_as_its_tokens_are_counted() -> None:
    model, ids = zoo_model("gpt2").model, prompts(2, 8)  # a table of positions
    steps = [Without("attention", 0), Without("attention", 0)]
    art = rg.compile(model, ids, passes=steps, cache=True, measure=False)
    assert not any(node.op == "scaled_dot_product_attention" for node in art.graph.nodes)
    assert art.generate(ids, max_new_tokens=3, eos_token_id=()).shape == (2, 11)


@pytest.mark.parametrize(
    "steps", [["w8a8-dynamic"], ["exact", QuantizeCache()], [Quantize("dynamic"), QuantizeCache()]]
)
def test_other_passes_go_on_with_what_is_left(steps: list[Any]) -> None:
    model, ids = zoo_model("llama").model, prompts(2, 8)
    data = [prompts(2, 12), prompts(3, 12)]
    first = DropLayers(0.5, kinds=("attention",))
    parts = [
        rg.compile(model, ids, passes=some, calibration=data, cache=True)
        for some in ([first], [first, *steps])
    ]
    found, wanted = (part(ids).logits for part in parts)
    assert 1e-6 < float((found - wanted).norm() / wanted.norm()) < 0.05
    head = parts[1](input_ids=ids[:, :3])
    rest = parts[1](input_ids=ids[:, 3:], past_key_values=head.past_key_values)
    gap = (rest.logits - wanted[:, 3:]).norm() / wanted.norm()
    assert float(gap) < 0.05


def test_a_chunk_in_parallel_keeps_the_state_of_its_last_iteration() -> None:
    model: Any = zoo_model("llama").model
    ids = prompts(2, 8)
    step = Parallelize(chunk=2, iterations=2)  # as many as blocks: exact
    art = rg.compile(model, ids, passes=[step], cache=True)
    found = art.generate(ids, max_new_tokens=NEW, eos_token_id=())
    options = {"do_sample": False, "max_new_tokens": NEW, "eos_token_id": None}
    assert torch.equal(found, model.generate(ids, attention_mask=torch.ones_like(ids), **options))


def test_fused_blocks_generate() -> None:
    model, ids = zoo_model("llama").model, prompts(2, 8)
    data = [prompts(2, 12), prompts(3, 12)]
    step = FuseBlocks(0.5, neighbours=1)
    art = rg.compile(model, ids, passes=[step], calibration=data, cache=True)
    assert len(find_caches(art.graph)) == 2
    whole = art(ids).logits
    head = art(input_ids=ids[:, :3])
    rest = art(input_ids=ids[:, 3:], past_key_values=head.past_key_values)
    torch.testing.assert_close(rest.logits, whole[:, 3:], rtol=1e-4, atol=1e-5)


# -- in another form -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "qwen3"])
def test_exact_passes_go_through_the_state(name: str) -> None:
    model: Any = zoo_model(name).model
    ids = prompts(2, 8)
    art = rg.compile(model, ids, passes=[CenterResidual(), FoldNormAffine(), Rotate()], cache=True)
    closed = next(report for report in art.report.passes if report.name == "CloseState")
    assert len(closed.applied) == 2  # the values of two layers; keys are turned by their places
    found = art.generate(ids, max_new_tokens=NEW, eos_token_id=())
    options = {"do_sample": False, "max_new_tokens": NEW, "eos_token_id": None}
    assert torch.equal(found, model.generate(ids, attention_mask=torch.ones_like(ids), **options))
    assert not [note for note in art.report.notes if note.startswith("caches are copied")]


def test_passes_find_as_many_sites_with_a_cache_as_without() -> None:
    model, ids = zoo_model("llama").model, prompts(2, 8)
    data = [prompts(2, 8), prompts(3, 8)[:2]]
    steps = [Rotate(), Prune(0.5, roles=("heads",))]
    plain = {"input_ids": ids, "use_cache": False}
    arts = [
        rg.compile(model, ids, passes=steps, calibration=data, cache=True, measure=False),
        rg.compile(model, (), plain, passes=steps, calibration=data, measure=False),
    ]
    counts = [
        {r.name: len(r.applied) for r in art.report.passes if r.name in ("Rotate", "Prune")}
        for art in arts
    ]
    assert counts[0] == counts[1] and all(counts[0].values())


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_heads_go_from_the_state(name: str, tmp_path: Path) -> None:
    model, ids = zoo_model(name).model, prompts(2, 8)
    step = Prune(0.5, roles=("heads",), score="magnitude", recover=False)
    art = rg.compile(model, ids, passes=[step], cache=True)
    pasts = [cache.past for cache in find_caches(art.graph)]
    whole = rg.compile(model, ids, passes=[], cache=True, measure=False)
    heads = [cache.past.shape[1] for cache in find_caches(whole.graph)]
    assert [past.shape[1] for past in pasts] == [int(count) // 2 for count in heads]
    art.save(tmp_path)
    found = rg.load(tmp_path).generate(ids, max_new_tokens=NEW, eos_token_id=())
    assert torch.equal(found, text_without_a_cache(model, step, ids))


def test_state_of_the_model_is_not_taken_for_that_of_the_graph() -> None:
    model: Any = zoo_model("llama").model
    ids = prompts(2, 8)
    art = rg.compile(model, ids, passes=[Rotate()], cache=True, measure=False)
    with torch.no_grad():
        past = model(ids[:, :4], use_cache=True).past_key_values
    with pytest.raises(InputError, match="past_key_values"):
        art(input_ids=ids[:, 4:], past_key_values=past)


def test_a_form_that_does_not_come_back_is_refused() -> None:
    graph, _ = OpenState()(parse(GRAPH))
    (state,) = find_state(graph)
    graph.give(state.left, 1, 2 * graph.value(state.left.args[1]))
    with pytest.raises(GraphError, match="cat gives would come back changed, by 1"):
        CloseState()(graph)


def small(blocks: int) -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": blocks}
    config = hf.LlamaConfig(**sizes, **heads)  # type: ignore[arg-type]
    return hf.LlamaForCausalLM(config).eval()


def test_a_state_that_differs_between_iterations_is_left_alone() -> None:
    model, ids = small(4), prompts(2, 8)
    step = Parallelize(chunk=4, iterations=2)
    art = rg.compile(model, ids, passes=[step], cache=True, measure=False)
    (report,) = (report for report in art.report.passes if report.name == "Parallelize")
    assert not report.applied and "another in each iteration" in report.missed[0].text
    head = art(input_ids=ids[:, :3])
    rest = art(input_ids=ids[:, 3:], past_key_values=head.past_key_values)
    torch.testing.assert_close(rest.logits, art(ids).logits[:, 3:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_bases_of_half_precision_come_back(dtype: torch.dtype) -> None:
    model, ids = small(2).to(dtype), prompts(2, 8)
    steps = [CenterResidual(), FoldNormAffine(), Rotate(), Quantize("dynamic")]
    data = [prompts(2, 12), prompts(3, 12)]
    art = rg.compile(model, ids, passes=steps, calibration=data, cache=True, target="torch")
    assert art.generate(ids, max_new_tokens=3, eos_token_id=()).shape == (2, 11)


def test_learning_leaves_the_form_of_the_state() -> None:
    model, ids = small(3), prompts(2, 8)
    with torch.no_grad():
        past = model(ids[:, :4], use_cache=True).past_key_values
    data = [{"input_ids": ids[:, 4:], "past_key_values": past, "use_cache": True}] * 2
    steps = [Rotate(), Without("attention", 1), Distill(Fitter(steps=5))]
    art = rg.compile(model, ids, passes=steps, calibration=data, cache=True)
    assert art.generate(ids, max_new_tokens=3, eos_token_id=()).shape == (2, 11)


@pytest.mark.parametrize("score", ["taylor", "magnitude"])
def test_scores_are_of_what_is_read(score: str) -> None:
    data = [prompts(2, 12), prompts(3, 12)]
    step = Prune(0.5, roles=("heads",), score=score)
    art = rg.compile(small(2), prompts(2, 8), passes=[step], calibration=data, cache=True)
    assert {cache.past.shape[1] for cache in find_caches(art.graph)} == {1}


@pytest.mark.parametrize("steps", [[], [Rotate()], [Prune(0.5, roles=("heads",))]], ids=str)
def test_inputs_are_kept_in_place_of_keys_and_values(steps: list[Any]) -> None:
    model, ids, data = small(2), prompts(2, 8), [prompts(2, 12)]
    arts = [
        rg.compile(model, ids, passes=passes, calibration=data, cache=True, measure=False)
        for passes in ([*steps, CacheInputs(None)], steps)
    ]
    texts = [art.generate(ids, max_new_tokens=NEW, eos_token_id=()) for art in arts]
    assert torch.equal(*texts)


def by_hand(model: Any, ids: Tensor) -> tuple[Graph, dict[str, Any]]:
    """A decoder traced with a cache, lengths under names of their own, and a call of it."""
    with torch.no_grad():
        past = model(ids[:, :4], use_cache=True).past_key_values
    kwargs = {"input_ids": ids[:, 4:], "past_key_values": past, "use_cache": True}
    auto = torch.export.Dim.AUTO
    pairs = [({2: auto}, {2: auto})] * 2
    shapes = {"input_ids": None, "past_key_values": pairs, "use_cache": None}
    return rg.trace(model, (), kwargs, dynamic_shapes=shapes), kwargs


def test_open_state_is_no_state_to_deploy() -> None:
    graph, kwargs = by_hand(small(2), prompts(2, 8))
    opened, _ = OpenState()(graph)
    with pytest.raises(InputError, match="put CloseState before target 'torch'"):
        rg.compile(graph, (), kwargs, passes=[OpenState()], target="torch")
    for step in (QuantizeCache(), CacheInputs()):
        with pytest.raises(InputError, match=f"put CloseState before {step.name}"):
            step(opened)


def test_lengths_with_names_of_their_own_are_one() -> None:
    new, _ = by_hand(small(2), prompts(2, 8))
    for step in (OpenState(), Prune(0.5, roles=("heads",), score="magnitude", recover=False)):
        new, _ = step(new)
    new, _ = CloseState()(new)
    assert {cache.past.shape[1] for cache in find_caches(new)} == {1}
