"""EfficientQAT (A76): training one block after another, and then the scales alone."""

from __future__ import annotations

from dataclasses import replace

import base

from regauge.passes import Quantize, Reconstruct
from regauge.passes.fitting import Fitter
from regauge.passes.quantization.learned_rounding import Rates

WEIGHTS = "int2-g64-asym"
STEPS = 80
SAYS = (
    "EfficientQAT (A76) claims that training each block with its weights, scales and zero points, "
    "and then the scales of all by the loss of the model, makes two bits usable. {subject}. "
    f"{WEIGHTS}, {STEPS} steps a block and as many in the end, by the error of the logits, for "
    "want of labels; the judged images are others. Borne out in kind, on a model far smaller than "
    "the claim's: each step lowers the error of the logits; the last does so by a twentieth, and "
    "accuracy falls by one image with it. That last step was chosen of two that were tried: with "
    "the divergence as its loss, at three times the rate, no step beat the start on held-out "
    "batches, and nothing was changed. SmolLM2 was not measured."
)


def measure() -> base.Figures:
    subject = base.digits_vit()
    nearest = Quantize(None, WEIGHTS, "nearest", correct_bias=False)
    by_block = Reconstruct(
        None,
        WEIGHTS,
        "nearest",
        correct_bias=False,
        method="block-ap",
        rates=Rates(weights=5e-2, steps=5e-3, zeros=2e-2),
        fitter=Fitter(steps=STEPS),
    )
    end = Fitter(steps=STEPS)
    both = replace(by_block, end_to_end=end, end_rates=Rates(steps=1e-3))
    rows: list[list[object]] = [["float32", 0.0, subject.quality(subject.graph)]]
    for name, step in (
        ("round to nearest", nearest),
        ("Block-AP", by_block),
        ("Block-AP, then E2E-QP", both),
    ):
        graph, _ = step.attempt(subject.graph, subject.context)
        rows.append([name, subject.error(graph), subject.quality(graph)])
        print(rows[-1], flush=True)
    return base.Figures(rows, {"subject": subject.title})


if __name__ == "__main__":
    base.publish(
        "efficientqat",
        "EfficientQAT in two bits",
        SAYS,
        ("weights", "error of the logits", "accuracy"),
        measure,
    )
