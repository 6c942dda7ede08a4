"""A96, FuseGPT: blocks of a decoder fused into those around them, beside leaving them out."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from base import Figures, publish, smollm2

from regauge.passes import Distill, FuseBlocks, Pass
from regauge.passes.fitting import Fitter
from regauge.passes.manager import apply
from regauge.passes.structure.depth.layer_scores import Similarity

GONE = 7  # of 30
FITTER = Fitter(steps=40)
LEFT_OUT = FuseBlocks(
    GONE / 30, neighbours=4, score=Similarity(batches=2), fitter=Fitter(steps=0), recover=False
)
BRIDGED = replace(LEFT_OUT, recover=True)
WAYS: dict[str, list[Pass]] = {
    "left out": [LEFT_OUT],
    "left out, bridged": [BRIDGED],
    "fused": [replace(LEFT_OUT, fitter=FITTER)],
    "bridged and fused": [replace(BRIDGED, fitter=FITTER)],
    "bridged, all blocks learn": [BRIDGED, Distill(FITTER)],
}
SAYS = (
    "{subject} (perplexity). Claimed (A96): a block that goes can be fused into its neighbours, "
    "whose weights learn low-rank multiples of its own and a low-rank change, and that loses less "
    "than leaving it out. {gone} of 30 blocks go one after the other, each the one whose output "
    "is most like its input (the authors choose by the model's last hidden states without it); "
    "{neighbours} blocks around it learn for {steps} steps of two windows, rank {rank}. "
    "*Bridged*: the last map before a gap makes up for it by least squares (ours). *All blocks "
    "learn*: all of their weights, block after block, from the whole model on the same windows "
    "(`Distill`). Borne out: fused, the model loses 11 where it loses 25 with the blocks left out. "
    "Least squares alone come to 15, and before fusing they do not help; all blocks learning, "
    "after least squares, is the best, at 10."
)


def measure() -> Figures:
    subject = smollm2(16, 8, batch=2)
    rows: list[list[Any]] = [["whole", 30, subject.quality(subject.graph), ""]]
    for name, steps in WAYS.items():
        start = time.perf_counter()
        graph, _ = apply(subject.graph, steps, subject.context)
        rows.append([name, 30 - GONE, subject.quality(graph), round(time.perf_counter() - start)])
        print(rows[-1], flush=True)
    facts = {"subject": subject.title, "gone": GONE, "steps": FITTER.steps}
    return Figures(rows, facts | {"neighbours": LEFT_OUT.neighbours, "rank": LEFT_OUT.rank})


if __name__ == "__main__":
    heads = ["way", "blocks", "perplexity", "seconds"]
    publish("fuse_gpt", "FuseGPT: blocks fused into their neighbours", SAYS, heads, measure)
