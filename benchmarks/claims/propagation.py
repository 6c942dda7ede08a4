"""Weights that make up for the errors before them: QEP (A05), and a share of it chosen by data left
out, in the place of CoreQ's coefficient (A26)."""

from __future__ import annotations

import time
from typing import Any

from base import Subject, minilm, publish, smollm2

from regauge.passes import Quantize
from regauge.passes.evidence import MakeUp
from regauge.passes.solvers import KBest, Solver

SHARES: tuple[MakeUp, ...] = (0.0, 0.5, 1.0, "held-out")
SOLVERS: dict[str, str | Solver] = {
    "to the nearest": "nearest",
    "GPTQ": "gptq",
    "8-best": KBest(8),
}


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
    return [subject.measure, weights, solver, *row]


def main() -> None:
    small, large = minilm(), smollm2(8, 8)
    rows = [
        ["MiniLM", *figures(small, weights, solver)]
        for weights in ("int3-g64-asym", "int2-g64-asym")
        for solver in SOLVERS
    ]
    rows += [
        ["SmolLM2", *figures(large, "int3-g64-asym", solver)]
        for solver in ("to the nearest", "GPTQ")
    ]
    publish(
        "propagation",
        "Weights that make up for the errors before them",
        "W + c W T in the place of W (A05, F5), with a share c of none, half (the authors' value), "
        "all, and the share that is best for each weight on the half of the calibration rows that "
        "T was not made of (ours; it stands in the place of the coefficient of A26, which is not "
        "published in what we could read). Linear layers alone are quantized. "
        f"{small.title}; {large.title}. Lower is better, {small.measure} and {large.measure} "
        "alike. "
        f"SmolLM2 without quantization: {large.quality(large.graph):.4g}. {VERDICT}",
        ("model", "measure", "weights", "solver", *(f"c = {share}" for share in SHARES)),
        rows,
    )


VERDICT = ""

if __name__ == "__main__":
    main()
