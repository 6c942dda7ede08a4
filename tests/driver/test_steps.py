"""Decoders that keep the state of a recurrence: read token by token, they make the text that the
model makes, and compute what it computes for all tokens at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from recurrent_models import RECURRENT, recurrent
from torch import Tensor, nn

import regauge as rg
from regauge.backends.torch_eager import TorchRunner
from regauge.driver.decoder import Decoder
from regauge.driver.generation import begin
from regauge.ir import TraceError, astype
from regauge.ir.interpret import execute

NEW = 12
Compiled = Callable[..., tuple[Any, rg.Artifact]]


def prompts(batch: int, length: int = 6) -> Tensor:
    return torch.randint(3, 99, (batch, length), generator=torch.Generator().manual_seed(batch))


def wanted(model: Any, ids: Tensor) -> Tensor:
    options = {"do_sample": False, "max_new_tokens": NEW, "eos_token_id": None}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)


def decoder_of(art: rg.Artifact) -> Decoder:
    assert art.decoder is not None
    return art.decoder


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    made: dict[Any, tuple[Any, rg.Artifact]] = {}

    def get(name: str, target: str = "torch") -> tuple[Any, rg.Artifact]:
        if (name, target) not in made:
            model = recurrent(name)
            passes = "exact" if target == "onnxruntime" else []
            art = rg.compile(
                model, prompts(2, 8), cache=True, passes=passes, target=target, measure=False
            )
            made[name, target] = model, art
        return made[name, target]

    return get


@pytest.mark.parametrize(
    ("name", "target"),
    [*((name, "torch") for name in RECURRENT), ("mamba2", "onnxruntime"), ("lfm2", "onnxruntime")],
)
def test_greedy_text_is_that_of_the_model(name: str, target: str, compiled: Compiled) -> None:
    model, art = compiled(name, target)
    for ids in (prompts(1), prompts(2, 9), prompts(3, 1)):
        found = art.generate(ids, max_new_tokens=NEW, eos_token_id=())
        assert torch.equal(found, wanted(model, ids))


# In those of 1e-6 the whole reads tables in float32, of sines and of powers of a decay, where the
# steps compute them.
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("mamba", 1e-9),
        ("mamba2", 1e-9),
        ("lfm2", 1e-9),
        ("bamba", 1e-9),
        ("qwen3_next", 1e-6),
        ("minimax", 1e-6),
    ],
)
def test_steps_compute_what_the_whole_does(name: str, least: float, compiled: Compiled) -> None:
    model, art = compiled(name)
    ids = prompts(2, 9)
    whole = astype(rg.trace(model, (), {"input_ids": ids, "use_cache": False}), torch.float64)
    steps = astype(art.graph, torch.float64)
    with torch.no_grad():
        scores, *_ = execute(whole, [ids, False])
        one = begin(steps, TorchRunner(steps), decoder_of(art), art.constants, ids, ids.shape[1])
        found = torch.cat([one(token) for token in ids.split(1, 1)], 1)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, scores, rtol=least, atol=least)


def test_what_is_kept_is_named_by_its_place_and_begins_with_zeros(compiled: Compiled) -> None:
    _, art = compiled("lfm2")
    shapes = {name: list(art.graph[name].shape) for name, _ in decoder_of(art).state}
    cache = "past_key_values_layers"
    assert shapes == {
        f"{cache}_0_conv_states_0": ["batch", 32, 3],
        f"{cache}_1_keys": ["batch", 2, "past", 8],
        f"{cache}_1_values": ["batch", 2, "past", 8],
    }
    assert decoder_of(art).fixed == (f"{cache}_0_conv_states_0",)
    assert {tuple(value.shape) for value in decoder_of(art).empty(art.graph, 3).values()} == {
        (3, 32, 3), (3, 2, 0, 8)
    }  # fmt: skip


def test_the_report_says_why_tokens_are_read_one_by_one(compiled: Compiled) -> None:
    _, art = compiled("lfm2")
    (note,) = [note for note in art.report.notes if note.startswith("tokens are read one by one")]
    assert "cannot be called with a cache of keys and values" in note


@pytest.mark.parametrize("name", ["mamba2", "lfm2"])
def test_onnx_runtime_keeps_state_in_place(name: str, compiled: Compiled) -> None:
    _, art = compiled(name, "onnxruntime")
    assert not [note for note in art.report.notes if note.startswith("caches are copied")]


def test_a_text_in_pieces_scores_as_the_whole_does(compiled: Compiled) -> None:
    model, art = compiled("lfm2")
    ids = prompts(2, 11)
    first = art(ids[:, :4])
    second = art(input_ids=ids[:, 4:], past_key_values=first.past_key_values)
    with torch.no_grad():
        whole = model(ids).logits
    found = torch.cat([first.logits, second.logits], 1)
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)


def test_a_loaded_artifact_generates_the_same(compiled: Compiled, tmp_path: Path) -> None:
    _, art = compiled("lfm2", "onnxruntime")
    again = rg.load(art.save(tmp_path / "art"))
    assert again.decoder == art.decoder
    options = {"max_new_tokens": NEW, "temperature": 1.0, "seed": 3}
    assert torch.equal(again.generate(prompts(2), **options), art.generate(prompts(2), **options))


def test_calibration_data_are_texts() -> None:
    model = recurrent("lfm2")
    batches = [prompts(2, 7), prompts(1, 5)]
    art = rg.compile(
        model, prompts(1, 8), cache=True, passes="w8a8-dynamic", calibration=batches, target="torch"
    )
    with torch.no_grad():
        whole = model(prompts(2)).logits
    found = art(prompts(2)).logits
    assert 1e-4 < float((found - whole).norm() / whole.norm()) < 0.1
    assert "errors are of the last token of the example" in " ".join(art.report.notes)


# -- a recurrence of nobody's ----------------------------------------------------------------------


@dataclass
class Memory:
    """What it keeps, where it likes."""

    parts: dict[str, list[Tensor]]
    read: int = 0


class Recurrence(nn.Module):
    """``h_t = a h_{t-1} + x_t``; the scores are of ``tanh(h_t)``.

    Args:
        start: What ``h`` begins with.
        counts: Whether it counts tokens.
    """

    def __init__(self, *, start: float = 0.0, counts: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 6)
        self.head = nn.Linear(6, 20)
        self.decay = nn.Parameter(torch.linspace(0.5, 0.9, 6))
        self.start, self.counts = start, counts

    def forward(
        self, input_ids: Tensor, memory: Memory | None = None, use_cache: bool = False
    ) -> dict[str, Any]:
        x = self.table(input_ids)
        h = torch.full_like(x[:, 0], self.start) if memory is None else memory.parts["h"][0]
        read = 0 if memory is None else memory.read
        rows: list[Tensor] = []
        for t in range(input_ids.shape[1]):
            h = self.decay * h + x[:, t]
            rows.append(self.head(torch.tanh(h)))
        found: dict[str, Any] = {"logits": torch.stack(rows, 1)}
        if use_cache:
            found["memory"] = Memory({"h": [h]}, read + self.counts * input_ids.shape[1])
        return found


def texts(batch: int, length: int) -> Tensor:
    return prompts(batch, length) % 20


def test_state_is_found_wherever_a_model_keeps_it() -> None:
    torch.manual_seed(0)
    model = Recurrence().eval()
    art = rg.compile(model, texts(2, 5), cache=True, target="torch")
    assert [node.name for node in decoder_of(art).inputs(art.graph)] == ["memory_parts_h_0"]
    ids = texts(2, 4)
    found = art.generate(ids, max_new_tokens=5)
    for length in range(4, 9):
        assert torch.equal(model(found[:, :length])["logits"][:, -1].argmax(-1), found[:, length])


def test_the_model_is_left_as_it_was() -> None:
    model = Recurrence().eval()
    rg.compile(model, texts(2, 5), cache=True, target="torch", measure=False)
    assert isinstance(model(texts(1, 3), use_cache=True)["memory"], Memory)


def test_a_state_that_does_not_begin_with_zeros_is_refused() -> None:
    with pytest.raises(
        TraceError, match=r"gives something else for 5 tokens at once .* from zeros"
    ):
        rg.compile(Recurrence(start=1.0).eval(), texts(2, 5), cache=True, target="torch")


def test_a_python_number_that_counts_tokens_is_refused() -> None:
    with pytest.raises(TraceError, match="counts tokens in a Python number, read of its memory"):
        rg.compile(Recurrence(counts=True).eval(), texts(2, 5), cache=True, target="torch")


def test_steps_for_one_batch_alone_are_refused_with_advice_that_fits() -> None:
    """Nobody gave ``dynamic_shapes``, which PyTorch advises to change."""

    class Pairs(Recurrence):
        def forward(
            self, input_ids: Tensor, memory: Memory | None = None, use_cache: bool = False
        ) -> dict[str, Any]:
            assert memory is None or input_ids.shape[0] == 2
            return super().forward(input_ids, memory, use_cache)

    with pytest.raises(TraceError, match=r"Constraints violated \(batch\)") as caught:
        rg.compile(Pairs().eval(), texts(2, 5), cache=True, target="torch")
    assert caught.value.do.startswith("compile it without cache=True")
