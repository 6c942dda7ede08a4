"""The models and the tokens, written where every contestant's process reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import zoo
from safetensors.torch import save_file


@dataclass(frozen=True)
class Subject:
    """A model of the zoo with how much text it gets, in windows of so many tokens.

    Attributes:
        cases: Of weights alone: bits and group.
        timed: The case whose times are taken.
        bytes: Of the model in float32.
    """

    title: str
    measure: str
    length: int
    calibration: int
    held_out: int
    evaluation: int
    cases: tuple[tuple[int, int], ...]
    timed: tuple[int, int]
    bytes: int
    remark: str = ""

    @property
    def key(self) -> str:
        """What figures depend on, but for the contestant and the case."""
        return f"{self.title}/{self.calibration}+{self.held_out}+{self.evaluation}x{self.length}"

    @property
    def says(self) -> str:
        """The protocol."""
        return (
            f"{self.calibration} windows of {self.length} tokens to calibrate on, "
            f"{self.held_out} to choose settings by, {self.evaluation} to judge by. {self.remark}"
        ).strip()


SUBJECTS = {
    "smollm2": Subject(
        title="SmolLM2-135M-Instruct",
        measure="perplexity",
        length=256,
        calibration=16,
        held_out=8,
        evaluation=16,
        cases=((4, 128), (4, 64), (3, 32)),
        timed=(4, 64),
        bytes=538_060_032,
        remark="128 does not divide the 576 channels of the stream: most tools refuse it, so "
        "groups of 64 are measured as well. The weights were in four bits and groups of 32 before "
        "they came here, which makes four bits easier for all.",
    ),
    "minilm": Subject(
        title="MiniLM (all-MiniLM-L6-v2)",
        measure="relative L2 error",
        length=128,
        calibration=64,
        held_out=32,
        evaluation=32,
        cases=((4, 32),),
        timed=(4, 32),
        bytes=90_261_504,
    ),
}


def write(name: str, folder: Path) -> Path:
    """The model and its three sets of tokens, which share no text, where they are not there yet;
    gives the folder of them."""
    subject, place = SUBJECTS[name], folder / name
    if (place / "tokens.safetensors").exists():
        return place
    model, tokenizer = zoo.smollm2() if name == "smollm2" else zoo.minilm()
    model.save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    first = subject.evaluation
    half = zoo.text_windows(tokenizer, first + subject.held_out, subject.length, "evaluation")
    calibration = zoo.text_windows(tokenizer, subject.calibration, subject.length, "calibration")
    tokens = {
        "calibration": calibration,
        "held_out": half[first:].contiguous(),
        "evaluation": half[:first].contiguous(),
    }
    save_file(tokens, place / "tokens.safetensors")
    if subject.measure != "perplexity":
        with torch.no_grad():
            wanted = {
                split: model(input_ids=tokens[split]).last_hidden_state.contiguous()
                for split in ("held_out", "evaluation")
            }
        save_file(wanted, place / "wanted.safetensors")
    return place
