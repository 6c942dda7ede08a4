"""Weights that make up for the errors before them: QEP (A05), and a share of it chosen by data left
out, in the place of CoreQ's coefficient (A26)."""

from __future__ import annotations

import sys
import time
from typing import Any, Literal, TypeAlias

from base import Subject, minilm, publish, smollm2

from regauge.passes import Quantize
from regauge.passes.evidence import MakeUp

SHARES: tuple[MakeUp, ...] = (0.0, 0.5, 1.0, "held-out")
SOLVERS = {"to the nearest": "nearest", "GPTQ": "gptq"}
Model: TypeAlias = Literal["minilm", "smollm2"]


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


def main(model: Model) -> None:
    subject = minilm(16) if model == "minilm" else smollm2(8, 8)
    print(subject.measure, "before:", subject.quality(subject.graph), flush=True)
    rows = [
        figures(subject, weights, solver)
        for weights in ("int3-g64-asym", "int2-g64-asym")
        for solver in SOLVERS
    ]
    publish(
        f"propagation-{model}",
        "Weights that make up for the errors before them",
        "W + c W T in the place of W (A05, F5), with a share c of none, half (the authors' value), "
        "all, and the share that is best for each weight on the half of the calibration rows that "
        "T was not made of (ours; it stands in the place of the coefficient of A26, which is not "
        "published in what we could read). Linear layers alone are quantized. "
        f"{subject.title}. Lower is better. {VERDICT[model]}",
        ("weights", "solver", *(f"{subject.measure}, c = {share}" for share in SHARES)),
        rows,
    )


VERDICT: dict[Model, str] = {"minilm": "", "smollm2": ""}

if __name__ == "__main__":
    main("smollm2" if sys.argv[1:] == ["smollm2"] else "minilm")
