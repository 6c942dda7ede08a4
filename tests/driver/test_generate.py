"""Text by a compiled decoder, token for token what transformers makes with the model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from small_models import zoo_model
from torch import Tensor, nn

import regauge as rg
from regauge.driver.generation import Sampling
from regauge.ir import InputError, TargetError, TraceError

NEW = 14
IN_PLACE = ("llama", "gpt2", "opt", "qwen3", "gemma", "mixtral", "mistral", "gptj")
COPIED = ("gemma2", "bloom", "gpt_neo")


def decoder(name: str) -> nn.Module:
    """A small random decoder; ``mistral`` has a window that texts are longer than, ``gptj`` turns
    neighbours by their places, ``gpt_neo`` has a mask of as many places as it has positions."""
    if name not in ("mistral", "gptj", "gpt_neo"):
        return zoo_model(name).model
    torch.manual_seed(0)
    if name == "gpt_neo":
        shape = {"max_position_embeddings": 64, "hidden_size": 32, "num_layers": 2, "num_heads": 4}
        kinds = {"attention_types": [[["global", "local"], 1]], "window_size": 8}
        ends = {"bos_token_id": 1, "eos_token_id": 2}
        return hf.GPTNeoForCausalLM(hf.GPTNeoConfig(vocab_size=99, **shape, **kinds, **ends)).eval()  # type: ignore[arg-type]
    if name == "gptj":
        shape = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4}
        ends = {"bos_token_id": 1, "eos_token_id": 2}
        return hf.GPTJForCausalLM(hf.GPTJConfig(vocab_size=99, **shape, **ends)).eval()  # type: ignore[arg-type]
    sizes = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 5}
    return hf.MistralForCausalLM(hf.MistralConfig(**sizes, **heads)).eval()  # type: ignore[arg-type]


def prompts(batch: int, length: int = 6) -> Tensor:
    return torch.randint(3, 99, (batch, length), generator=torch.Generator().manual_seed(batch))


def wanted(model: Any, ids: Tensor, **options: Any) -> Tensor:
    options = {"do_sample": False, "max_new_tokens": NEW, "eos_token_id": None, **options}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)


@pytest.fixture(scope="module")
def compiled() -> Callable[..., tuple[Any, rg.Artifact]]:
    """A decoder and its artifact by the preset ``exact``, made once."""
    made: dict[Any, tuple[Any, rg.Artifact]] = {}

    def get(name: str, target: str = "onnxruntime") -> tuple[Any, rg.Artifact]:
        if (name, target) not in made:
            model = decoder(name)
            art = rg.compile(model, prompts(2, 8), cache=True, target=target)
            made[name, target] = model, art
        return made[name, target]

    return get


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", [*IN_PLACE, *COPIED])
def test_greedy_text_is_that_of_the_model(name: str, batch: int, compiled: Any) -> None:
    model, art = compiled(name)
    ids = prompts(batch)
    found = art.generate(ids, max_new_tokens=NEW, eos_token_id=())
    assert torch.equal(found, wanted(model, ids))
    copied = [note for note in art.report.notes if note.startswith("caches are copied")]
    assert len(copied) == (name in COPIED)


def test_other_targets_generate_too(compiled: Any) -> None:
    model, art = compiled("llama", "torch")
    assert torch.equal(
        art.generate(prompts(2), max_new_tokens=NEW, eos_token_id=()), wanted(model, prompts(2))
    )


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_a_loaded_artifact_generates_the_same(name: str, compiled: Any, tmp_path: Path) -> None:
    _, art = compiled(name)
    again = rg.load(art.save(tmp_path / "art"))
    assert again.decoder == art.decoder
    options = {"max_new_tokens": NEW, "temperature": 1.0, "seed": 3}
    assert torch.equal(again.generate(prompts(2), **options), art.generate(prompts(2), **options))


@pytest.mark.parametrize("name", ["gpt2", "gpt_neo"])
def test_more_tokens_than_positions_are_refused_where_they_are_looked_up(
    name: str, compiled: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    _, art = compiled(name)
    with pytest.raises(TargetError, match=r"embedding_1: .* = embedding"):
        art.generate(prompts(1, 60), max_new_tokens=10, eos_token_id=())
    assert "onnxruntime:" not in capfd.readouterr().err


def test_text_ends_where_the_model_ends_it_and_is_padded(compiled: Any) -> None:
    model, art = compiled("llama")
    ids = prompts(2)
    free = art.generate(ids, max_new_tokens=NEW, eos_token_id=())
    end = int(free[0, 9])  # the fourth token of the first text
    assert end not in free[1, :9]
    found = art.generate(ids, max_new_tokens=NEW, eos_token_id=end, pad_token_id=1)
    assert torch.equal(found, wanted(model, ids, eos_token_id=end, pad_token_id=1))
    assert (found[0, 10:] == 1).all()
    alone = art.generate(ids[:1], max_new_tokens=NEW, eos_token_id=[end, 98])
    assert torch.equal(alone, free[:1, :10])


def test_the_models_own_end_is_taken_along(compiled: Any) -> None:
    model, art = compiled("llama")
    assert art.decoder.ends == (model.generation_config.eos_token_id,)


def test_a_stream_gives_one_token_at_a_time(compiled: Any) -> None:
    _, art = compiled("llama")
    ids = prompts(2)
    tokens = art.stream(ids, max_new_tokens=NEW, eos_token_id=())
    first = next(tokens)
    whole = art.generate(ids, max_new_tokens=NEW, eos_token_id=())
    assert torch.equal(first, whole[:, 6])
    assert len(list(tokens)) == NEW - 1


def test_two_streams_do_not_mix(compiled: Any) -> None:
    _, art = compiled("llama")
    ids = prompts(2)
    options = {"max_new_tokens": NEW, "eos_token_id": ()}
    streams = [art.stream(row, **options) for row in ids.split(1)]
    woven = [torch.cat(pair) for pair in zip(*streams, strict=True)]
    assert torch.equal(torch.stack(woven, 1), art.generate(ids, **options)[:, 6:])


def test_a_prompt_in_pieces_scores_as_the_whole_does(compiled: Any) -> None:
    model, art = compiled("llama")
    ids = prompts(2, 11)
    first = art(ids[:, :4])
    found = [first.logits]
    for part in (ids[:, 4:5], ids[:, 5:]):
        first = art(input_ids=part, past_key_values=first.past_key_values)
        found.append(first.logits)
    with torch.no_grad():
        whole = model(ids).logits
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-5, atol=1e-6)


def test_calibration_data_are_texts_without_a_cache() -> None:
    model = decoder("llama")
    batches = [prompts(2, 12), prompts(1, 9)]
    art = rg.compile(model, prompts(1, 8), cache=True, passes="w8a8-dynamic", calibration=batches)
    with torch.no_grad():
        whole = model(prompts(2)).logits
    found = art(prompts(2)).logits
    assert float((found - whole).norm() / whole.norm()) < 0.05
    assert art.generate(prompts(2), max_new_tokens=NEW, eos_token_id=()).shape == (2, 6 + NEW)


def test_a_quantized_cache_generates_too() -> None:
    model = decoder("llama")
    passes = ["exact", rg.passes.QuantizeCache(keys=16, values=16)]
    art = rg.compile(model, prompts(1, 8), cache=True, passes=passes, measure=False)
    found = art.generate(prompts(2), max_new_tokens=4, eos_token_id=())
    assert torch.equal(found, wanted(model, prompts(2), max_new_tokens=4))


def test_a_window_of_the_cache_cannot_begin_empty() -> None:
    passes = ["exact", rg.passes.QuantizeCache(window=2)]
    with pytest.raises(InputError, match="cannot begin with no tokens"):
        rg.compile(decoder("llama"), prompts(1, 8), cache=True, passes=passes, measure=False)


# -- sampling --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("top_k", "top_p"), [(5, None), (None, 0.7), (20, 0.5), (None, 1.0)])
def test_what_is_drawn_from_is_what_transformers_draws_from(
    top_k: int | None, top_p: float | None
) -> None:
    scores = torch.randn(4, 99, generator=torch.Generator().manual_seed(0)) * 3
    warpers: list[Any] = [hf.TemperatureLogitsWarper(0.8)]
    warpers += [hf.TopKLogitsWarper(top_k)] if top_k else []
    warpers += [hf.TopPLogitsWarper(top_p)] if top_p else []
    expected = scores
    for warper in warpers:
        expected = warper(None, expected)
    found = Sampling(0.8, top_k, top_p).kept(scores / 0.8)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_seed_decides_what_is_drawn(compiled: Any) -> None:
    _, art = compiled("llama")
    draw = lambda seed: art.generate(prompts(1), max_new_tokens=NEW, temperature=2.0, seed=seed)  # noqa: E731
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens is -1, and must not be negative"),
        ({"temperature": -1.0}, "temperature is -1, and must not be negative"),
        ({"temperature": 1.0, "top_k": 0}, "top_k is 0, and must be at least 1"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p is 1.5, and must be in (0, 1]"),
        ({"top_k": 5}, "top_k and top_p say what to draw from, and at temperature 0 nothing is"),
        (
            {"attention_mask": torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])},
            "attention_mask leaves tokens out: prompts of unequal lengths are not taken together",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, Any], message: str, compiled: Any
) -> None:
    _, art = compiled("llama")
    with pytest.raises(InputError) as caught:
        art.generate(prompts(2), **options)
    assert message in str(caught.value)


def test_what_is_no_batch_of_ids_is_refused(compiled: Any) -> None:
    _, art = compiled("llama")
    with pytest.raises(InputError, match=r"expected token ids \[batch, tokens\], got \[6\]"):
        art.generate(prompts(1)[0])
    with pytest.raises(InputError, match=r"input_ids: expected i64\[batch, length\], got f32"):
        art.generate(prompts(1).float())


def test_an_artifact_without_a_cache_says_so(art: rg.Artifact) -> None:
    with pytest.raises(InputError) as caught:
        art.generate(prompts(1))
    assert str(caught.value) == (
        "this artifact of Net keeps no cache to generate with\n"
        "  do  compile a decoder of transformers with cache=True"
    )


def test_models_without_such_a_cache_are_refused(net: nn.Module) -> None:
    with pytest.raises(InputError, match="the Net takes no past_key_values"):
        rg.compile(net, torch.randn(2, 8), cache=True)
    with pytest.raises(TraceError, match="the BertModel does not give back the cache"):
        rg.compile(zoo_model("bert").model, prompts(1), cache=True)


def test_what_a_cache_settles_cannot_be_asked_for(compiled: Any) -> None:
    model, art = compiled("llama")
    with pytest.raises(InputError, match="cache=True is given with a Graph"):
        rg.compile(art.graph, prompts(1), cache=True)
    with pytest.raises(InputError, match="dynamic_shapes is given with cache=True"):
        rg.compile(model, prompts(1), cache=True, dynamic_shapes={"input_ids": None})
    mask = {"attention_mask": torch.ones(1, 6, dtype=torch.long)}
    with pytest.raises(InputError, match="takes token ids"):
        rg.compile(model, prompts(1), mask, cache=True)
    with pytest.raises(InputError, match="past_key_values is given"):
        cache = hf.DynamicCache()
        rg.compile(model, prompts(1), {"past_key_values": cache}, cache=True)
