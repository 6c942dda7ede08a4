"""Weights that make up for the errors before them: QEP (A05), and a share of it chosen by data left
out, in the place of CoreQ's coefficient (A26)."""

from __future__ import annotations

import time
from typing import Any

from base import Figures, Subject, minilm, publish, smollm2

from regauge.passes import Quantize
from regauge.passes.quantization.evidence import MakeUp

SHARES: tuple[MakeUp, ...] = (0.0, 0.5, 1.0, "held-out")
SOLVERS = {"to the nearest": "nearest", "GPTQ": "gptq"}
SAYS = (
    "W + c W T in the place of W (A05, F5), with a share c of none, half (the authors' value), "
    "all, and the share that is best for each weight on the half of the calibration rows that T "
    "was not made of (ours; it stands in the place of the coefficient of A26, which is not "
    "published in what we could read). Linear layers alone are quantized. {subjects}. Lower is "
    "better."
)


def figures(subject: Subject, weights: str, solver: str) -> list[Any]:
    """A row: the quality for each share."""
    row: list[Any] = []
    for share in SHARES:
        start = time.process_time()
        step = Quantize(
            None, weights=weights, rounding=SOLVERS[solver], make_up=share, embeddings=False
        )
        row.append(float(subject.quality(subject.after([step]))))
        print(weights, solver, share, row[-1], round(time.process_time() - start), flush=True)
    return [weights, solver, *row]


def measure() -> Figures:
    subjects = {"minilm": minilm(16), "smollm2": smollm2(8, 8)}
    rows = [
        [name, *figures(subject, weights, solver)]
        for name, subject in subjects.items()
        for weights in ("int3-g64-asym", "int2-g64-asym")
        for solver in SOLVERS
    ]
    titles = (f"{subject.title} ({subject.measure})" for subject in subjects.values())
    return Figures(rows, {"subjects": "; ".join(titles)})


if __name__ == "__main__":
    publish(
        "propagation",
        "Weights that make up for the errors before them",
        SAYS,
        ("model", "weights", "solver", *(f"c = {share}" for share in SHARES)),
        measure,
    )
