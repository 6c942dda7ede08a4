"""A78: bits by relevance that is propagated back from the class that the model chooses."""

from __future__ import annotations

import torch
from allocating import allocated, candidates, formats, of_digits
from base import digits_vit, publish

from regauge.ir import astype
from regauge.ir.interpret import execute
from regauge.passes.allocation import (
    Chance,
    Gradient,
    IntegerProgramming,
    LayerRelevance,
    Measured,
    Score,
)
from regauge.passes.allocation.relevance import relevance

PAIRS = ((2, 4), (4, 6))


def conserved() -> tuple[float, float]:
    """What of the outputs' relevance arrives at the inputs and what biases and constants keep, as
    parts of it."""
    subject = digits_vit()
    graph = astype(subject.graph, torch.float64)
    inputs = [subject.calibration[0][0].double()]
    found = relevance(graph, inputs, torch.square, epsilon=1e-9)
    whole = float(execute(graph, inputs)[0].square().sum())
    arrived = sum(float(found[node].sum()) for node in graph.inputs if node in found)
    data = set(graph.inputs)
    for node in graph.nodes:
        data |= {node} if data & set(node.inputs) else set()
    kept = sum(float(found[node].sum()) for node in found if node not in data)
    return arrived / whole, kept / whole


def main() -> None:
    subject = digits_vit()
    shares = LayerRelevance(batches=8).shares(candidates(subject, formats(4, group=32)))
    arrived, kept = conserved()
    scores: dict[str, Score] = {
        "relevance of the chosen class": LayerRelevance(batches=8),
        "relevance of all logits": LayerRelevance(of="all", batches=8),
        "gradient-weighted error": Gradient(probes=16, batches=8),
        "measured": Measured(batches=8),
        "chance": Chance(),
    }
    rows: list[list[object]] = []
    for low, high in PAIRS:
        sizes: list[float] = []
        for width in (low, low + 1, high):
            graph, data = allocated(subject, formats(width, group=32), 16.0)
            sizes.append(data["bits"])
            rows.append([f"int{width} everywhere", data["bits"], *of_digits(subject, graph)])
        for name, score in scores.items():
            graph, data = allocated(
                subject, formats(low, high, group=32), sizes[1], score, IntegerProgramming()
            )
            label = f"int{low} or int{high} by {name}"
            rows.append([label, data["bits"], *of_digits(subject, graph)])
    publish(
        "lrp_qvit",
        "Bits by layer-wise relevance (A78, LRP-QViT)",
        f"{subject.title}. Claimed: bits by a layer's relevance for the chosen class beat fixed "
        "bits at equal size. Conservation: of the relevance of the logits, "
        f"{100 * arrived:.6g} % arrives at the images and {100 * kept:.6g} % stays with biases and "
        f"constants, together {100 * (arrived + kept):.8g} %. The shares of the "
        f"{len(shares)} weights lie between {float(shares.min()):.2g} and "
        f"{float(shares.max()):.2g}. Weights to the nearest, in groups of 32 with zero points; "
        "sizes with the scales, the mixed ones those of the fixed width between. At equal size "
        "relevance does less damage to the logits than the width between, and about as little as "
        "the damages that are measured; far less than chance. Accuracy does not tell: the "
        "differences are of one or two images, and not in favour of mixing at the smaller size.",
        ["", "bits a weight", "relative error of logits", "accuracy"],
        rows,
    )


if __name__ == "__main__":
    main()
