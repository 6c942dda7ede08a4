"""A41: do layers whose Hessian has a great eigenvalue lose most when they are quantized?"""

from __future__ import annotations

from typing import Any

import torch
from allocating import allocated, candidates, formats
from base import Figures, digits_vit, publish
from scipy.stats import spearmanr

from regauge.passes.allocation import (
    Chance,
    Gradient,
    Hessian,
    IntegerProgramming,
    Measured,
    Score,
)
from regauge.passes.allocation.score import squared_errors

LOW = 3
BITS = (2, 3, 4, 6, 8)
SAYS = (
    "{subject}; {weights} weights. Claimed: layers whose block of the Hessian has a great "
    "eigenvalue lose most when they are quantized, and mixed bits by that order are at least as "
    "good as the same bits everywhere. The first rows are Spearman's rank correlation with the "
    f"measured increase of the loss when one weight alone is in int{LOW} (groups of 32), the loss "
    "being the squared error of the logits; the others are models of one size, stored bits a "
    "weight, each judged on test images. They bear the claim out on this model: the eigenvalue "
    "orders well once it is multiplied by the error that is made, and every mixture beats the same "
    "bits everywhere; but one run of gradients of random probes orders better, for less."
)


def measure() -> Figures:
    subject = digits_vit()
    names = formats(LOW, group=32)
    found = candidates(subject, names)
    measured = Measured(batches=8).damages(found).damage[:, 0]
    top = Hessian("eigenvalue", iterations=12, batches=2).eigenvalues(found)
    trace = Hessian("trace", probes=16, batches=4).traces(found)
    sizes = torch.tensor([float(unit.size) for unit in found.units])
    errors = squared_errors(found)[:, 0]
    gradient = Gradient(probes=16, batches=8).damages(found).damage[:, 0]
    orders = {
        "λ / n (the paper's order of bits)": top / sizes,
        "λ": top,
        "λ ‖δW‖² (the paper's order of tuning)": top * errors,
        "trace / n · ‖δW‖²": trace / sizes * errors,
        "gradient-weighted error": gradient,
    }
    rows: list[list[object]] = []
    for name, order in orders.items():
        correlation: Any = spearmanr(order, measured)
        rows.append([name, float(correlation[0]), "", "", ""])
    scores: dict[str, Score] = {
        "λ ‖δW‖²": Hessian("eigenvalue", iterations=12, batches=2),
        "trace / n · ‖δW‖²": Hessian("trace", probes=16, batches=4),
        "gradient-weighted error": Gradient(probes=16, batches=8),
        "measured": Measured(batches=8),
    }
    for width in (3, 4):
        (even,) = formats(width, group=32)
        graph, data = allocated(subject, (even,), 16.0, Chance())
        size = data["bits"]
        error, accuracy = subject.error(graph), subject.quality(graph)
        rows.append([f"int{width} everywhere", "", size, error, accuracy])
        for name, score in scores.items():
            graph, data = allocated(
                subject, formats(*BITS, group=32), size, score, IntegerProgramming()
            )
            error, accuracy = subject.error(graph), subject.quality(graph)
            rows.append([f"mixed, by {name}", "", data["bits"], error, accuracy])
    return Figures(rows, {"subject": subject.title, "weights": len(found.units)})


if __name__ == "__main__":
    publish(
        "hawq",
        "The Hessian's greatest eigenvalue as a measure of sensitivity (A41, HAWQ)",
        SAYS,
        ["", "Spearman", "bits a weight", "relative error of logits", "accuracy"],
        measure,
    )
