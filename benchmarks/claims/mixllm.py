"""A83: a tenth of the rows in eight bits, chosen over all layers, in each, or by chance."""

from __future__ import annotations

from typing import Literal

import torch
from allocating import quality
from base import Figures, publish, smollm2

from regauge.passes import AllocateRows, Choice
from regauge.passes.allocation import Candidates, Gradient

LOW, HIGH, PART = "int4-g128-pad-asym", "int8-channel", 0.1
OVER: dict[Literal["all", "layer", "chance"], str] = {
    "all": "10 % of the weights in int8 rows, over all layers",
    "layer": "10 % of the rows of each layer in int8",
    "chance": "10 % of the weights in int8 rows, by chance",
}
SAYS = (
    "{subject}. Claimed: a tenth of the output features in eight bits, chosen over all layers by "
    "the loss that they would cause, takes away more of the gap to floating point than as many in "
    "each layer. The score is the Fisher information of each row's error; rounding to the nearest, "
    "simulated; the table, the head and activations in floating point. A pass sorts the rows into "
    "two linear layers whose results are joined, which is exact "
    "(`tests/passes/allocation/test_rows.py`). The figures bear it out: of the gap to floating "
    "point four fifths go, against three fifths by layer and a tenth by chance."
)


def measure() -> Figures:
    subject = smollm2(windows=8, judged=4)
    score = Gradient(probes=2, batches=2, metric="likelihood")
    step = AllocateRows(PART, LOW, HIGH, score=score)
    linear = step.units(subject.graph)
    found = Candidates.of(subject.graph, subject.context, linear, [Choice(LOW), Choice(HIGH)])
    gains = score.of_rows(found)
    weights = [unit.weights[0] for unit in found.units]
    low, high = ([found.weight(weight, Choice(form)) for weight in weights] for form in (LOW, HIGH))
    rows: list[list[object]] = [["float", quality(subject, found, {})]]

    def judged(picked: list[torch.Tensor]) -> float:
        params = {
            weight.name: torch.where(better[:, None], b, a)
            for weight, better, a, b in zip(weights, picked, low, high, strict=True)
        }
        return quality(subject, found, params)

    def even(better: bool) -> list[torch.Tensor]:
        return [torch.full((len(weight),), better) for weight in low]

    rows.append([f"{LOW} everywhere", judged(even(False))])
    fits = [True] * len(weights)
    for over, name in OVER.items():
        options = AllocateRows(PART, LOW, HIGH, over, score)
        rows.append([name, judged(options.chosen(found, fits, gains))])
        print(rows[-1], flush=True)
    rows.append([f"{HIGH} everywhere", judged(even(True))])
    return Figures(rows, {"subject": subject.title})


if __name__ == "__main__":
    publish(
        "mixllm",
        "A tenth of all rows in eight bits (A83, MixLLM)",
        SAYS,
        ["", "perplexity"],
        measure,
    )
