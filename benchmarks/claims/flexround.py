"""FlexRound (A85): learnable rounding by division, against AdaRound and rounding to the nearest."""

from __future__ import annotations

from typing import Any

import base

from regauge.passes import Quantize, Reconstruct
from regauge.passes.fitting import Fitter

STEPS = 80
PLAIN: dict[str, Any] = {"rounding": "nearest", "correct_bias": False}
SAYS = (
    "FlexRound (A85) claims a lower reconstruction loss than AdaRound. {subject}. Each block is "
    f"learned in {STEPS} steps on 6 of 8 batches, with the quantized blocks before it as input; "
    "errors are relative L2 on the two batches held out, which choose the step too; accuracy is on "
    "other images. The claim is borne out, at half of AdaRound's error; part of that is the "
    "scales, which AdaRound keeps and FlexRound learns with the codes. Accuracy has little left to "
    "gain. Rates are the defaults of each method, tuned for neither. MiniLM was not learned on."
)


def measure() -> base.Figures:
    subject = base.digits_vit()
    rows: list[list[object]] = []
    for weights in ("int4-tensor", "int3-tensor", "int3-channel"):
        passes: dict[str, Quantize] = {
            "nearest": Reconstruct(None, weights, fitter=Fitter(steps=0), **PLAIN),
            "AdaRound": Reconstruct(
                None, weights, method="adaround", fitter=Fitter(steps=STEPS), **PLAIN
            ),
            "FlexRound": Reconstruct(
                None, weights, method="flexround", fitter=Fitter(steps=STEPS), **PLAIN
            ),
        }
        for name, step in passes.items():
            graph, remarks = step.attempt(subject.graph, subject.context)
            errors = [r.data["error_after"] for r in remarks if "error_after" in r.data]
            row: list[object] = [
                weights,
                name,
                sum(errors) / len(errors),
                errors[-1],
                subject.quality(graph),
            ]
            rows.append(row)
            print(row, flush=True)
    return base.Figures(rows, {"subject": subject.title})


if __name__ == "__main__":
    base.publish(
        "flexround",
        "FlexRound, AdaRound, nearest",
        SAYS,
        ("weights", "rounding", "mean error of a block", "error of the logits", "accuracy"),
        measure,
    )
