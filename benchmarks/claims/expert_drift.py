"""A04: experts pruned by how much longer their rows of the router have become in fine-tuning."""

from __future__ import annotations

from typing import Any

import torch
from base import Figures, publish
from expert_models import EXPERTS, Task, after, made, mean, traced, trained

from regauge.passes import DriftScore, PruneExperts
from regauge.passes.structure.experts.mixtures import mixtures

SAYS = "{subject}."
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
        for name in ("drift", "usage", "output", "random"):
            rows.append([name, keep, mean(found[name, keep]), min(found[name, keep])])
    subject = (
        "A transformer of two layers with mixtures of 8 experts, 2 a row, trained on scikit-learn's "
        "ten digits and then on 0 to 4 alone; its accuracy on 0 to 4, three seeds"
    )
    return Figures(rows, {"subject": subject})


if __name__ == "__main__":
    publish(
        "expert_drift",
        "Experts pruned by their router's drift",
        SAYS,
        ("score", "experts of 8", "accuracy", "least"),
        measure,
    )
