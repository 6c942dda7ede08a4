"""EfficientQAT (A76): training one block after another, and then the scales alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import base

from regauge.ir import Graph
from regauge.ir.blocks import repeated
from regauge.ir.gauge import inputs_of_contractions
from regauge.passes import Choice, Quantize, Reconstruct
from regauge.passes.fitting import Fitter
from regauge.passes.quantization.learned_rounding import Rates

WEIGHTS = "int2-g64-asym"
STEPS = 80
BLOCKS = (12, 13, 14, 15)  # of the decoder's 30; the others stay as they are
FEW_STEPS, END_STEPS = 48, 24  # of the decoder
FLOAT = Choice(None, None)
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
    vision, decoder = base.digits_vit(), base.smollm2(12, 4, batch=1)
    rows: list[list[Any]] = []
    for subject, chosen, steps in ((vision, None, STEPS), (decoder, BLOCKS, FEW_STEPS)):
        kept = {} if chosen is None else dict.fromkeys(outside(subject.graph, chosen), FLOAT)
        nearest = Quantize(None, WEIGHTS, "nearest", correct_bias=False, choices=kept)
        by_block = Reconstruct(
            None,
            WEIGHTS,
            "nearest",
            correct_bias=False,
            choices=kept,
            embeddings=False,
            method="block-ap",
            rates=Rates(weights=5e-2, steps=5e-3, zeros=2e-2),
            fitter=Fitter(steps=steps),
        )
        end = Fitter(steps=steps if chosen is None else END_STEPS)
        both = replace(by_block, end_to_end=end, end_rates=Rates(steps=1e-3))
        ways = {"round to nearest": nearest, "Block-AP": by_block, "Block-AP, then E2E-QP": both}
        name = subject.title.split(";")[0]
        rows.append([name, "float32", 0.0, subject.quality(subject.graph)])
        for way, step in ways.items():
            graph, _ = replace(step, embeddings=False).attempt(subject.graph, subject.context)
            rows.append([name, way, subject.error(graph), subject.quality(graph)])
            print(rows[-1], flush=True)
    return base.Figures(rows, {"subjects": f"{vision.title}; {decoder.title}"})


def outside(graph: Graph, chosen: Sequence[int]) -> list[str]:
    """The readers of weights in no chosen block of the repeated ones."""
    chain = repeated(graph)
    inside = {node for index in chosen for node in chain[index].nodes}
    readers = (reader for site in inputs_of_contractions(graph) for reader in site.readers)
    return [reader.name for reader in readers if reader not in inside]


if __name__ == "__main__":
    base.publish(
        "efficientqat",
        "EfficientQAT in two bits",
        SAYS,
        ("model", "weights", "error of the logits", "accuracy or perplexity"),
        measure,
    )
