"""A60, essential sparsity: how much goes by magnitude, at once, before quality drops."""

from __future__ import annotations

from typing import Any, Literal

import torch
import zoo
from base import Figures, Subject, digits_vit, minilm, publish, smollm2
from torch import nn
from torch.nn import functional as F

import regauge as rg
from regauge.ir.blocks import repeated
from regauge.passes import Sparsify

SAYS = (
    "{subjects}. Claimed (A60): of a trained transformer's weights a large part can be set to zero "
    "at once, by magnitude, with little lost, up to a point behind which quality falls sharply. "
    "Linear layers of the blocks, as many zeros in each. What is called the knee is what "
    "`remove='essential'` finds without labels, from the change of the outputs on calibration data "
    "in steps of 5 %; quality is judged on other data. Borne out by the ViT: half of its weights "
    "go for 2 points of accuracy, and a fifth more takes 31. By the decoder at a fifth: perplexity "
    "is 9 % higher there, half again as high with 30 % gone, and 19 times as high with half. By "
    "the encoder-decoder at 30 %: 1.20, of 1.08; 1.90 with 40 % gone and 9.1 with half. The "
    "encoder has no such point, its error grows from the first weights on, and what is called its "
    "knee costs a relative error of 0.38: the knee is where it gets steeper, not a promise that "
    "little is lost. The curve is looked at up to a change of 1, as far as constant outputs are "
    "off; the ViT, the encoder and the decoder settled this rule (of a change relative to all of "
    "the outputs, in place of what they differ by, the decoder's knee was 55 %, with a perplexity "
    "of 1944), so the encoder-decoder, which came after it, is the only independent evidence."
)
PARTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def measure() -> Figures:
    rows: list[list[Any]] = []
    subjects = (digits_vit(), minilm(8, 8), smollm2(4, 8), whisper())
    for subject in subjects:
        name = subject.title.split(";")[0]
        knee = part_of(subject)
        rows.append([name, "none", subject.quality(subject.graph), ""])
        for part in sorted({*PARTS, knee}):
            graph = subject.after([step(subject, part)])
            mark = "the knee" if part == knee else ""
            rows.append([name, f"{100 * part:.0f} %", subject.quality(graph), mark])
            print(rows[-1], flush=True)
    return Figures(rows, {"subjects": "; ".join(f"{s.title} ({s.measure})" for s in subjects)})


class Heard(nn.Module):
    """Whisper's scores of each word of a text, by what it hears and the words before."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        found = self.model(input_features=features, decoder_input_ids=ids, use_cache=False)
        return found.logits


def whisper() -> Subject:
    """An encoder-decoder of 38M parameters: perplexity of the words that it hears as it is."""
    model = zoo.whisper()

    def heard(split: Literal["calibration", "evaluation"]) -> list[list[torch.Tensor]]:
        windows = zoo.whisper_features(split).split(1)
        return [[window, zoo.transcript(model, window)] for window in windows]

    calibration, evaluation = heard("calibration"), heard("evaluation")
    words = torch.export.Dim("words", min=2, max=64)
    graph = rg.trace(Heard(model).eval(), tuple(calibration[0]), dynamic_shapes=({}, {1: words}))

    def judge(run: Any) -> float:
        losses = [
            F.cross_entropy(run([window, ids])[0, 1:-1], ids[0, 2:]) for window, ids in evaluation
        ]
        return float(torch.stack(losses).mean().exp())

    title = "Whisper tiny.en; 4 recordings to calibrate on, 30 seconds of another"
    return Subject(
        title, "perplexity of the words that it hears as it is", graph, calibration, judge
    )


def part_of(subject: Subject) -> float:
    """What ``essential`` finds."""
    remarks = step(subject, "essential").attempt(subject.graph, subject.context)[1]
    rates: dict[str, float] = remarks[-1].data["rates"]
    return max(rates.values())


def step(subject: Subject, remove: float | Literal["essential"]) -> Sparsify:
    """Zeros by magnitude in each linear layer of the repeated blocks, as many in each."""
    names = tuple(
        node.name
        for block in repeated(subject.graph)
        for node in block.nodes
        if node.op == "linear"
    )
    return Sparsify(remove, "layer", "magnitude", "none", sites=names)


if __name__ == "__main__":
    publish(
        "essential",
        "Essential sparsity: where quality starts to fall (A60)",
        SAYS,
        ["model", "zeros", "accuracy, error or perplexity", ""],
        measure,
    )
