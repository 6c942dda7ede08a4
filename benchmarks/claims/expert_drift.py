"""A04: experts pruned by how much longer their rows of the router have become in fine-tuning."""

from __future__ import annotations

from typing import Any

import torch
from base import Figures, publish
from expert_models import EXPERTS, SUBJECT, Task, after, made, mean, traced, trained

from regauge.passes import DriftScore, MergeExperts, PruneExperts
from regauge.passes.structure.experts.mixtures import mixtures

SAYS = (
    "{subject}, all ten and then 0 to 4 alone; its accuracy on 0 to 4, three seeds. Claimed "
    "(A04): experts whose rows of the router have become longer least in fine-tuning can go, "
    "without any data. At 4 of 8 that holds on average: 5 points above random choice, and 12 "
    "above usage, which is below random choice. At 2 of 8 it does not: it is 4 points below "
    "random choice. The loss of the mixture's result, measured on the task's data (*output*, "
    "ours), is the best at both. *Merged*: experts clustered by what they make of the same "
    "rows, and averaged by usage with their neurons aligned (ours): behind *output*, and at 2 "
    "of 8 behind random choice too."
)
KEPT = (4, 2)
SEEDS = (0, 1, 2)


def measure() -> Figures:
    every, own = Task.of(range(10)), Task.of(range(5))
    found: dict[tuple[str, int], list[float]] = {}
    whole: list[float] = []
    for seed in SEEDS:
        model = made(seed)
        trained(model, every, 250, rate=3e-3, seed=seed)
        base = {name: value.clone() for name, value in model.state_dict().items()}
        trained(model, own, 120, rate=1e-3, seed=seed)
        graph = traced(model, own)
        whole.append(own.accuracy(graph))
        steps: dict[str, Any] = {"drift": DriftScore(base), "usage": "usage", "output": "output"}
        for keep in KEPT:
            for name, score in steps.items():
                left = after(PruneExperts(keep=keep, score=score), graph, own.batches)
                found.setdefault((name, keep), []).append(own.accuracy(left))
            merged = after(MergeExperts(keep=keep), graph, own.batches)
            found.setdefault(("merged", keep), []).append(own.accuracy(merged))
            names = [mixture.name for mixture in mixtures(graph)[0]]
            for draw in range(5):
                random = torch.Generator().manual_seed(draw)
                some = {
                    name: torch.randperm(EXPERTS, generator=random)[:keep].tolist()
                    for name in names
                }
                left = after(PruneExperts(experts=some), graph, own.batches)
                found.setdefault(("random", keep), []).append(own.accuracy(left))
        print(seed, whole[-1], flush=True)
    rows: list[list[Any]] = [["none goes", EXPERTS, mean(whole), min(whole)]]
    for keep in KEPT:
        for name in ("drift", "usage", "output", "random", "merged"):
            rows.append([name, keep, mean(found[name, keep]), min(found[name, keep])])
    return Figures(rows, {"subject": SUBJECT})


if __name__ == "__main__":
    publish(
        "expert_drift",
        "Experts pruned by their router's drift",
        SAYS,
        ("score", "experts of 8", "accuracy", "least"),
        measure,
    )
