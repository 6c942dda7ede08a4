"""Weights that make up for the errors before them: QEP (A05), and a share of it chosen by data left
out, in the place of CoreQ's coefficient (A26)."""

from __future__ import annotations

from collections.abc import Sequence
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


def figures(
    subject: Subject, weights: str, solver: str, shares: Sequence[MakeUp] = SHARES
) -> list[Any]:
    """A row: the quality for each share."""
    row: list[Any] = [subject.title.split(";")[0], weights, solver]
    for share in SHARES:
        if share not in shares:
            row.append("")
            continue
        step = Quantize(
            None, weights=weights, rounding=SOLVERS[solver], make_up=share, embeddings=False
        )
        row.append(subject.quality(subject.after([step])))
        print(row, flush=True)
    return row


def measure() -> Figures:
    small, large = minilm(16), smollm2(8, 4)
    rows = [
        figures(small, weights, solver)
        for weights in ("int3-g64-asym", "int2-g64-asym")
        for solver in SOLVERS
    ]
    rows.append(figures(large, "int3-g64-asym", "GPTQ", (0.0, 0.5, "held-out")))
    titles = (f"{subject.title} ({subject.measure})" for subject in (small, large))
    return Figures(rows, {"subjects": "; ".join(titles)})


if __name__ == "__main__":
    publish(
        "propagation",
        "Weights that make up for the errors before them",
        SAYS,
        ("model", "weights", "solver", *(f"c = {share}" for share in SHARES)),
        measure,
    )
