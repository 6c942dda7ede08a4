"""A71: does bisection over an ordered list find the least bits within a tolerance, in few runs, and
does the order gain by dependencies between layers?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from allocating import NEAREST, candidates, formats
from base import Figures, digits_vit, publish

from regauge.passes import Allocate, Budget
from regauge.passes.allocation import Bisection, Gradient, Hessian, Measured, Score
from regauge.passes.allocation.units import of_readers
from regauge.passes.budget import Assignment

BITS = (8, 6, 4, 3, 2)
TOLERANCES = (0.01, 0.03, 0.1)  # relative error of the logits
SCORES: dict[str, Score] = {
    "trace of the Hessian × error": Hessian("trace", probes=8, batches=4),
    "gradient-weighted error": Gradient(probes=8, batches=4),
    "the same with dependencies": Gradient(probes=8, batches=4, dependencies=True),
    "measured damage": Measured(batches=4),
}
SAYS = (
    f"{{subject}}; {{weights}} weights of {len(BITS)} widths, {len(BITS)}^{{weights}} "
    "configurations. Claimed: bisection over a list in the order of a score finds a configuration "
    "within the tolerance in few runs, and a score with the dependencies between layers orders "
    "better than the Hessian alone. Runs are those of the whole model on the calibration images "
    "that the search takes, after the score. The tolerance is of the relative error of the logits "
    "on these. They bear the first half out: 10 to 20 runs, where lowering one weight after "
    "another would take 17 for each step. The second half hardly: dependencies save a little at "
    "the tighter tolerances and cost as much at the widest."
)


def measure() -> Figures:
    subject = digits_vit()
    names = formats(*BITS, group=32)
    found = candidates(subject, names)
    rows: list[list[object]] = []
    for name, score in SCORES.items():
        problem = Allocate(names, Budget(1.0, "damage"), score, Bisection()).problem(found)
        exact = problem.measure
        assert exact is not None
        for tolerance in TOLERANCES:
            runs: list[Assignment] = []

            counted = partial(_counted, exact, runs)
            chosen = Bisection().solve(replace(problem, limit=tolerance**2, measure=counted))
            choices = of_readers(found.units, [found.choices[index] for index in chosen])
            graph, _ = replace(NEAREST, choices=choices).attempt(subject.graph, subject.context)
            bits = problem.total(problem.cost, chosen) / problem.unit[1]
            kept = exact(chosen) ** 0.5
            judged = subject.error(graph), subject.quality(graph)
            rows.append([f"{tolerance:g}", name, len(runs), bits, kept, *judged])
            print(rows[-1], flush=True)
    rows.sort(key=lambda row: float(str(row[0])))
    return Figures(rows, {"subject": subject.title, "weights": len(found.units)})


def _counted(
    exact: Callable[[Assignment], float], runs: list[Assignment], chosen: Assignment
) -> float:
    runs.append(chosen)
    return exact(chosen)


if __name__ == "__main__":
    publish(
        "inter_layer",
        "Bisection over an ordered list of layers (A71)",
        SAYS,
        [
            "tolerance",
            "order",
            "runs",
            "bits a weight",
            "error on calibration images",
            "error on test images",
            "accuracy",
        ],
        measure,
    )
