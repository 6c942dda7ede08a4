"""A67, PreMoe: experts kept for a task by what the router gives them on its data (TCESS)."""

from __future__ import annotations

from typing import Any

import torch
from base import Figures, publish
from expert_models import EXPERTS, SUBJECT, Task, after, made, mean, traced, trained

from regauge.passes import ExpertScore, PruneExperts, RouterScore, patterns
from regauge.passes.structure.experts.mixtures import mixtures

SAYS = (
    "{subject}; accuracy on 0 to 4 and on 5 to 9, each with the experts that stay for it, and "
    "with those that stay for the other; three seeds. Claimed (A67): the sum of an expert's "
    "scores over the rows in which it is the highest (TCESS), on a task's data, says which "
    "experts to keep for the task. At 4 of 8 it is 3 points above usage and 14 above random "
    "choice; with two highest that count from a probability of 0.6 it comes to what the "
    "measured loss of the mixture's result gives (*output*, ours). At 2 of 8 it is 9 points "
    "above usage and random choice, and *output* 20 points above it. Patterns are the tasks' "
    "own: those of the other task cost 9 points more at 4 of 8, where {shared} % of the experts "
    "of both are the same."
)
TASKS = {"0 to 4": range(5), "5 to 9": range(5, 10)}
SCORES: dict[str, ExpertScore | str] = {
    "TCESS": RouterScore(),
    "TCESS, p ≥ 0.6 of two": RouterScore(active=2, least=0.6),
    "usage": "usage",
    "output": "output",
}
SEEDS = (0, 1, 2)


def measure() -> Figures:
    tasks = {name: Task.of(classes) for name, classes in TASKS.items()}
    every = Task.of(range(10))
    found: dict[tuple[str, int], tuple[list[float], list[float]]] = {}
    whole: list[float] = []
    shared: list[float] = []
    for seed in SEEDS:
        model = made(seed)
        trained(model, every, 300, rate=3e-3, seed=seed)
        graph = traced(model, every)
        whole += [task.accuracy(graph) for task in tasks.values()]
        data = {name: task.batches for name, task in tasks.items()}
        for keep in (4, 2):
            for label, score in SCORES.items():
                step = PruneExperts(keep=keep, score=score)
                kept = patterns(graph, data, step)
                first, second = kept.values()
                if label == "TCESS" and keep == 4:
                    shared += [len({*first[n]} & {*second[n]}) / keep for n in first]
                own, other = found.setdefault((label, keep), ([], []))
                for name, pattern in kept.items():
                    left = after(PruneExperts(experts=pattern), graph, every.batches)
                    for judged, task in tasks.items():
                        (own if judged == name else other).append(task.accuracy(left))
            own, other = found.setdefault(("random", keep), ([], []))
            for draw in range(5):
                random = torch.Generator().manual_seed(draw)
                some = {
                    m.name: torch.randperm(EXPERTS, generator=random)[:keep].tolist()
                    for m in mixtures(graph)[0]
                }
                left = after(PruneExperts(experts=some), graph, every.batches)
                own += [task.accuracy(left) for task in tasks.values()]
        print(seed, whole[-2:], flush=True)
    rows: list[list[Any]] = [["all stay", EXPERTS, mean(whole), ""]]
    for (label, keep), (own, other) in found.items():
        rows.append([label, keep, mean(own), mean(other) if other else ""])
    return Figures(rows, {"subject": SUBJECT, "shared": f"{100 * mean(shared):.0f}"})


if __name__ == "__main__":
    publish(
        "premoe",
        "PreMoe: experts that stay for a task",
        SAYS,
        ("score", "experts of 8", "accuracy on the task", "on the other"),
        measure,
    )
