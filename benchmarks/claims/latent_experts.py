"""A61, MoLE: experts that share a factor, beside a low rank for each at the same parameters."""

from __future__ import annotations

from typing import Any

import torch
from base import Figures, publish
from expert_models import Task, after, made, mean, traced, trained

from regauge.ir import Graph
from regauge.passes import ShareExperts
from regauge.passes.manager import difference
from regauge.passes.structure.costs import Costs

SAYS = "{subject}."
REMOVED = (0.25, 0.5, 0.75)
SEEDS = (0, 1, 2)


def alone(graph: Graph, removed: float) -> Graph:
    """Each expert's matrices by their own truncated singular value decomposition, as matrices."""
    found = graph.copy()
    for node in found.nodes:
        if node.op == "grouped_mm":
            value = found.value(node.args[1])
            _, inputs, outputs = value.shape
            rank = int((1 - removed) * inputs * outputs / (inputs + outputs))
            left, values, right = torch.linalg.svd(value.double(), full_matrices=False)
            lower = (left[..., :rank] * values[:, None, :rank]) @ right[:, :rank]
            found.store[node.args[1].name] = lower.to(value.dtype)
    return found


def measure() -> Figures:
    every = Task.of(range(10))
    found: dict[tuple[str, float], list[tuple[float, float, float]]] = {}
    whole: list[float] = []
    for seed in SEEDS:
        model = made(seed)
        trained(model, every, 300, rate=3e-3, seed=seed)
        graph = traced(model, every)
        wanted = every.outputs(graph)
        whole.append(every.accuracy(graph))
        stacks = {n.args[1].name: n.args[1] for n in graph.nodes if n.op == "grouped_mm"}
        size = sum(graph.value(param).numel() for param in stacks.values())
        rest = Costs(graph, []).parameters() - size

        def note(name: str, removed: float, left: Graph, part: float) -> None:
            error = difference([every.outputs(left)], [wanted])  # noqa: B023
            found.setdefault((name, removed), []).append((part, error, every.accuracy(left)))

        for removed in REMOVED:
            note("each alone, weights", removed, alone(graph, removed), 1 - removed)
            for name, whitened in (("shared, weights", False), ("shared, by data", True)):
                step = ShareExperts(remove=removed, whitened=whitened)
                left = after(step, graph, every.batches)
                part = (Costs(left, []).parameters() - rest) / size
                note(name, removed, left, part)
        print(seed, whole[-1], flush=True)
    rows: list[list[Any]] = [["as trained", 0, 1.0, 0.0, mean(whole)]]
    for (name, removed), some in found.items():
        rows.append([name, removed, *(mean([one[i] for one in some]) for i in range(3))])
    subject = (
        "A transformer of two layers with mixtures of 8 experts, 2 a row, trained on scikit-learn's "
        "ten digits; three seeds"
    )
    return Figures(rows, {"subject": subject})


if __name__ == "__main__":
    publish(
        "latent_experts",
        "MoLE: experts that share a factor",
        SAYS,
        ("experts' matrices", "to go", "parameters left", "error of the logits", "accuracy"),
        measure,
    )
