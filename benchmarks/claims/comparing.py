"""What is compared of allocations: scores of damage and solvers, at one size."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from allocating import candidates, formats, quality
from base import Figures, Subject, publish

from regauge.passes import Allocate
from regauge.passes.allocation import (
    Chance,
    DynamicProgramming,
    Gradient,
    Greedy,
    Hessian,
    IntegerProgramming,
    LayerRelevance,
    Outstanding,
    Score,
    Similarity,
    Solver,
    Threshold,
)

BITS = (2, 4, 8)
SOLVERS: dict[str, Solver] = {
    "threshold": Threshold(),
    "greedy": Greedy(),
    "dynamic programming": DynamicProgramming(),
    "integer programming": IntegerProgramming(),
}
SCORES: dict[str, Score] = {
    "gradient-weighted error": Gradient(probes=2, batches=2),
    "the same with dependencies": Gradient(probes=2, batches=2, dependencies=True),
    "trace of the Hessian × error": Hessian(probes=2, batches=2),
    "relevance": LayerRelevance(of="all", batches=1),
    "LIM": Similarity(batches=1),
    "ZD": Outstanding(),
    "chance": Chance(),
}
SAYS = (
    "{subject}. All {weights} weights, tables among them, in int2, int4 or int8, in groups of 64 "
    "with zero points, rounded to the nearest with clipping, simulated; as many stored bits as "
    "int4 everywhere."
)


def compare(
    name: str,
    subject: Callable[[], Subject],
    scores: Mapping[str, Score],
    judged: str,
    says: str,
) -> None:
    """Every score with every solver, on a page of this name.

    Args:
        judged: The measure of the subject.
        says: What the figures say.
    """
    publish(
        name,
        "Scores and solvers of bit allocation at one size: {model}",
        f"{SAYS} {says}",
        ("score", "solver", "bits a weight", judged),
        lambda: measure(subject(), scores),
    )


def measure(subject: Subject, scores: Mapping[str, Score]) -> Figures:
    found = candidates(subject, formats(*BITS))
    known: dict[tuple[int, ...], float] = {}

    def judged(chosen: list[int]) -> float:
        key = tuple(chosen)
        if key not in known:
            params: dict[str, torch.Tensor] = {
                weight.name: found.weight(weight, found.choices[index])
                for unit, index in zip(found.units, chosen, strict=True)
                for weight in unit.weights
            }
            known[key] = quality(subject, found, params)
        return known[key]

    size = sum(unit.size for unit in found.units)
    even = [1] * len(found.units)
    bits = sum(u.bits(found.choices[1]) * u.size for u in found.units) / size
    rows: list[list[object]] = [["none: int4 everywhere", "", bits, judged(even)]]
    for label, score in scores.items():
        problem = Allocate(formats(*BITS), bits, score).problem(found)
        for solving, solver in SOLVERS.items():
            if problem.projections is not None and solving != "greedy":
                continue  # the others take damages as they add up
            chosen = solver.solve(problem)
            spent = problem.total(problem.cost, chosen) / size
            rows.append([label, solving, spent, judged(chosen)])
            print(rows[-1], flush=True)
    facts = {
        "subject": subject.title,
        "model": re.split("[,;]", subject.title)[0],
        "weights": len(found.units),
    }
    return Figures(rows, facts)
