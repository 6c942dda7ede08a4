"""Formats of ZeroQuant-FP with powers of two for scales, and its low-rank compensation (A55), by
the objective of real layers."""

from __future__ import annotations

import math

import zoo
from base import Figures, publish, smollm2
from layers import layers

from regauge.ir.formats import named
from regauge.passes.quantization.solvers import GPTQ, RANGES, Grid, Nearest, Solver, low_rank

FORMATS = {
    "int4": "int4-g64",
    "int4 with zero points": "int4-g64-asym",
    "fp4": "fp4-e2m1-g64",
    "fp4, scales of powers of two (M1)": "fp4-e2m1-g64-e8m0",
    "fp4, powers of two below the greatest scale (M2)": "fp4-e2m1-g64-e8m0-down-twofold",
    "int3 with zero points": "int3-g64-asym",
}
SOLVERS: dict[str, Solver] = {"to the nearest": Nearest(), "GPTQ": GPTQ()}
BLOCKS = (2, 27)
RANK = 8
SAYS = (
    "The relative L2 error of what layers give on other text than they were calibrated on, "
    f"geometric means over the {{layers}} linear layers of blocks {', '.join(map(str, BLOCKS))} of "
    "SmolLM2-135M-Instruct; 8 windows of 256 tokens to calibrate on, 8 of other text. Scales come "
    f"from the range, in groups of 64. LoRC (A55) adds the best matrix of rank {RANK} by the "
    "singular values of W - V; the last column those of (W - V) R with H = R R', which is ours. "
    "Here both factors are in floating point. Borne out in part. FP4 beats INT4 without zero "
    "points (0.078 against 0.092 to the nearest, 0.048 against 0.051 by GPTQ), not with them "
    "(0.043). Scales of powers of two cost a third to the nearest and a fifth by GPTQ (M1), no "
    "small loss; M2 as the formula has it leaves more than twice the error: it rounds scales down, "
    "and what then exceeds them is clipped. LoRC takes away 4 to 12 % of what either solver "
    "leaves, and a quarter of M2's; by the Hessian as much after GPTQ, but a third to two fifths "
    "after rounding to the nearest, which so comes near to GPTQ without it. Activations in FP8 and "
    "INT8 are in the page of presets."
)


def measure() -> Figures:
    subject = smollm2(8)
    _, tokenizer = zoo.smollm2()
    other = [[ids] for ids in zoo.text_windows(tokenizer, 8, 256, "evaluation").split(4)]
    logs: dict[tuple[str, str], list[list[float]]] = {}
    for layer in layers(subject, other, BLOCKS):
        weight = layer.weight
        whole = float(layer.fresh.cost(weight).sum())
        for title, name in FORMATS.items():
            form = named(name)
            grid = Grid.of(form, weight, RANGES["range"](form, weight, None))
            for solver_name, solver in SOLVERS.items():
                error = weight - solver.solve(weight, layer.hessian, grid).values
                left = [error]
                for hessian in (None, layer.hessian):
                    first, second = low_rank(error, RANK, hessian)
                    left.append(error - second @ first)
                costs = [float(layer.fresh.cost(part).sum()) / whole for part in left]
                logs.setdefault((title, solver_name), []).append([math.log(c) / 2 for c in costs])
    rows = [
        [*key, *(math.exp(sum(part) / len(part)) for part in zip(*found, strict=True))]
        for key, found in logs.items()
    ]
    return Figures(rows, {"subject": subject.title, "layers": len(logs["fp4", "GPTQ"])})


if __name__ == "__main__":
    publish(
        "compensation",
        "Four-bit floating point, scales of powers of two, and low-rank compensation",
        SAYS,
        ("format", "solver", "alone", "LoRC", "LoRC by the Hessian"),
        measure,
    )
