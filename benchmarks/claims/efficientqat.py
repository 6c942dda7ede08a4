"""EfficientQAT (A76): training one block after another, and then the scales alone."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import base

from regauge.passes import Quantize, Reconstruct
from regauge.passes.fitting import Fitter
from regauge.passes.journal import Journal
from regauge.passes.quantization.learned_rounding import Rates

WEIGHTS = "int2-g64-asym"
STEPS = 80
FEW, LAST = 24, 16  # of a decoder: for each block, and in the end
SAYS = (
    "EfficientQAT (A76) claims that training each block with its weights, scales and zero points, "
    "and then the scales of all by the loss of the model, makes two bits usable. {subjects}. "
    f"{WEIGHTS}; {STEPS} steps a block and as many in the end for the ViT, {FEW} and {LAST} for "
    "SmolLM2; by the error of the logits, for want of labels; what is judged is other data. Borne "
    "out in kind, on budgets far below the claim's: each step lowers the error of the logits, and "
    "of SmolLM2, where two bits to the nearest leave nothing, the perplexity too, which is not "
    "usable after so few steps. Of the ViT the last step gains a twentieth of the error and no "
    "image. It was chosen of two that were tried: with the divergence as its loss, at three times "
    "the rate, no step beat the start on held-out batches, and nothing was changed."
)


def rows_of(subject: base.Subject, rates: Rates, steps: int, last: int) -> list[list[object]]:
    """What each step makes of a model.

    Args:
        steps: A block.
        last: End to end.
    """
    nearest = Quantize(None, WEIGHTS, "nearest", correct_bias=False)
    by_block = Reconstruct(
        None,
        WEIGHTS,
        "nearest",
        correct_bias=False,
        method="block-ap",
        rates=rates,
        fitter=Fitter(steps=steps),
    )
    both = replace(by_block, end_to_end=Fitter(steps=last), end_rates=Rates(steps=1e-3))
    name = subject.title.split(";")[0]
    rows: list[list[object]] = [[name, "float32", 0.0, subject.quality(subject.graph)]]
    with tempfile.TemporaryDirectory() as folder:
        kept = replace(subject.context, journal=Journal(Path(folder)))  # blocks are learned once
        for text, step, context in (
            ("round to nearest", nearest, subject.context),
            ("Block-AP", by_block, kept),
            ("Block-AP, then E2E-QP", both, kept),
        ):
            graph, _ = step.attempt(subject.graph, context)
            rows.append([name, text, subject.error(graph), subject.quality(graph)])
            print(rows[-1], flush=True)
    return rows


def measure() -> base.Figures:
    vision, decoder = base.digits_vit(), base.smollm2(8, 4, 1)
    rows = rows_of(vision, Rates(weights=5e-2, steps=5e-3, zeros=2e-2), STEPS, STEPS)
    rows += rows_of(decoder, Rates(weights=1e-4, steps=1e-3, zeros=1e-2), FEW, LAST)
    return base.Figures(rows, {"subjects": f"{vision.title}; {decoder.title}"})


if __name__ == "__main__":
    base.publish(
        "efficientqat",
        "EfficientQAT in two bits",
        SAYS,
        ("model", "weights", "error of the logits", "accuracy or perplexity"),
        measure,
    )
