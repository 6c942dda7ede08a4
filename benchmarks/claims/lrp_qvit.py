"""A78: bits by relevance that is propagated back from the class that the model chooses."""

from __future__ import annotations

import torch
from allocating import allocated, candidates, formats
from base import Figures, digits_vit, publish

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


SAYS = (
    "{subject}. Claimed: bits by a layer's relevance for the chosen class beat fixed bits at equal "
    "size. Conservation: of the relevance of the logits, {arrived:.6g} % arrives at the images and "
    "{kept:.6g} % stays with biases and constants, together {sum:.8g} %. The shares of the "
    "{weights} weights lie between {least:.2g} and {greatest:.2g}. Weights to the nearest, in "
    "groups of 32 with zero points; sizes with the scales, the mixed ones those of the fixed width "
    "between. At equal size relevance does less damage to the logits than the width between, and "
    "about as little as the damages that are measured; far less than chance. Accuracy does not "
    "tell: the differences are of one or two images, and not in favour of mixing at the smaller "
    "size."
)


def measure() -> Figures:
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
            rows.append(
                [
                    f"int{width} everywhere",
                    data["bits"],
                    subject.error(graph),
                    subject.quality(graph),
                ]
            )
        for name, score in scores.items():
            graph, data = allocated(
                subject, formats(low, high, group=32), sizes[1], score, IntegerProgramming()
            )
            label = f"int{low} or int{high} by {name}"
            rows.append([label, data["bits"], subject.error(graph), subject.quality(graph)])
    return Figures(
        rows,
        {
            "subject": subject.title,
            "arrived": 100 * arrived,
            "kept": 100 * kept,
            "sum": 100 * (arrived + kept),
            "weights": len(shares),
            "least": float(shares.min()),
            "greatest": float(shares.max()),
        },
    )


if __name__ == "__main__":
    publish(
        "lrp_qvit",
        "Bits by layer-wise relevance (A78, LRP-QViT)",
        SAYS,
        ["", "bits a weight", "relative error of logits", "accuracy"],
        measure,
    )
