"""K-best search and orders against GPTQ (A07), and coordinate descent with outliers (A94), by the
objective of real layers."""

from __future__ import annotations

import math
import time

import zoo
from base import Figures, publish, smollm2
from layers import layers

from regauge.ir.formats import named
from regauge.passes.quantization.solvers import (
    GPTQ,
    RANGES,
    CoordinateDescent,
    Grid,
    KBest,
    Nearest,
    Solver,
)

FORMATS = ("int3-g64-asym", "int2-g64-asym")
BLOCKS = (2, 15, 27)
SOLVERS: dict[str, Solver] = {
    "to the nearest": Nearest(),
    "GPTQ, columns as they come": GPTQ("natural"),
    "GPTQ, descending diagonal (the default)": GPTQ("descending"),
    "GPTQ, least pivot": GPTQ("pivot"),
    "8-best, descending diagonal": KBest(8, "descending"),
    "8-best, least pivot": KBest(8, "pivot"),
    "coordinate descent from the weights (QuantEase), 25 sweeps": CoordinateDescent(25, None),
    "coordinate descent from GPTQ, 12 sweeps": CoordinateDescent(),
    "the same with 1 % of outliers": CoordinateDescent(outliers=0.01),
    "the same with 1 % of columns": CoordinateDescent(outliers=0.01, columns=True),
}
SAYS = (
    "The objective tr[(V - W) H (V - W)'] of the {layers} linear layers of blocks "
    f"{', '.join(map(str, BLOCKS))} of {{subject}}. Each solver rounds to the same grid; figures "
    "are geometric means over the layers of the objective relative to that of rounding to the "
    "nearest, on the calibration data (seen) and on the other text (fresh), and in how many layers "
    "the objective on the calibration data is below that of the default GPTQ. Seconds are those of "
    "the processor, a layer. The claims of A07 hold: an order by pivots is below the default in 17 "
    "and 18 of 21 layers, by 1 % in the mean, and 8-best search in all, by 5 to 6 %, for thirty "
    "times the time. Those of A94 hold too: to the nearest > GPTQ > coordinate descent, which from "
    "the weights, as the authors have it, gains 13 % (three bits) and 17 % (two bits) over GPTQ in "
    "the mean, and more from GPTQ; outliers add 1 to 2 % here. On other text a third to a half of "
    "what descent gains over GPTQ is left."
)


def measure() -> Figures:
    subject = smollm2()
    _, tokenizer = zoo.smollm2()
    other = [[ids] for ids in zoo.text_windows(tokenizer, 16, 256, "evaluation").split(4)]
    logs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    seconds = dict.fromkeys(SOLVERS, 0.0)
    below: dict[tuple[str, str], int] = {}
    for layer in layers(subject, other, BLOCKS):
        for name in FORMATS:
            form = named(name)
            grid = Grid.of(form, layer.weight, RANGES["error"](form, layer.weight, layer.hessian))
            plain = (math.nan, math.nan)
            for title, solver in SOLVERS.items():
                start = time.process_time()
                found = solver.solve(layer.weight, layer.hessian, grid).total - layer.weight
                seconds[title] += time.process_time() - start
                seen, fresh = (float(h.cost(found).sum()) for h in (layer.hessian, layer.fresh))
                if title == "to the nearest":
                    plain = seen, fresh
                logs.setdefault((title, name), []).append(
                    (math.log(seen / plain[0]), math.log(fresh / plain[1]))
                )
                reference = logs.get(("GPTQ, descending diagonal (the default)", name), [])
                if len(reference) == len(logs[title, name]):
                    less = logs[title, name][-1][0] < reference[-1][0]
                    below[title, name] = below.get((title, name), 0) + less
    count = len(logs["to the nearest", FORMATS[0]])
    rows = []
    for title in SOLVERS:
        cells: list[float | str] = [title]
        for name in FORMATS:
            seen, fresh = (
                math.exp(sum(parts) / count) for parts in zip(*logs[title, name], strict=True)
            )
            wins = below.get((title, name))
            cells += [seen, fresh, "" if wins is None else f"{wins} of {count}"]
        rows.append([*cells, seconds[title] / count / len(FORMATS)])
    return Figures(rows, {"subject": subject.title, "layers": count})


VERDICT = (
    "The claims of A07 hold: an order by pivots is below the default in 17 and 18 of 21 layers, by "
    "1 % in the mean, and 8-best search in all, by 5 to 6 %, for thirty times the time. Those of "
    "A94 hold too: to the nearest > GPTQ > coordinate descent, which from the weights, as the "
    "authors have it, gains 13 % (three bits) and 17 % (two bits) over GPTQ in the mean, and more "
    "from GPTQ; outliers add 1 to 2 % here. On other text a third to a half of what descent gains "
    "over GPTQ is left."
)

if __name__ == "__main__":
    publish(
        "solvers",
        "Rounding solvers on real layers",
        SAYS,
        (
            "solver",
            *(f"{name}, {what}" for name in FORMATS for what in ("seen", "fresh", "below GPTQ")),
            "seconds",
        ),
        measure,
    )
