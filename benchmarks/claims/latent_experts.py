"""A61, MoLE: experts that share a factor, beside a low rank for each at the same parameters."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from base import Figures, publish
from expert_models import SUBJECT, Task, after, made, mean, traced, trained

from regauge.ir import Graph, Node
from regauge.ir.interpret import execute
from regauge.passes import ShareExperts
from regauge.passes.manager import difference
from regauge.passes.quantization.solvers import Hessian, singular
from regauge.passes.structure.costs import Costs

SAYS = (
    "{subject}; three seeds. Claimed (A61): a factor that all experts of a mixture share, found "
    "by one truncated singular value decomposition, costs few parameters for its error. Beside "
    "it each expert's matrices are brought to a low rank of their own of as many parameters, by "
    "their weights alone or in the norm of what the expert reads (ours in both). Not borne out "
    "beyond what a low rank for each expert gives: by weights a factor of their own is a little "
    "better at each size, by data the two are level at 25 and 50 % and that of their own is "
    "nearer to the logits at 75 %. Experts that were copies of one network once may "
    "have more in common; these were trained from random weights. What counts is the data: at "
    "50 % they bring the error from 0.64 to 0.16."
)
REMOVED = (0.25, 0.5, 0.75)
SEEDS = (0, 1, 2)


def alone(graph: Graph, removed: float, moments: dict[str, torch.Tensor] | None = None) -> Graph:
    """Each expert's matrices by their own best ones of low rank, in the norm of what they read."""
    found = graph.copy()
    for node in found.nodes:
        if node.op == "grouped_mm":
            name = node.args[1].name
            value = found.store[name].double()
            _, inputs, outputs = value.shape
            rank = int((1 - removed) * inputs * outputs / (inputs + outputs))
            lower: list[torch.Tensor] = []
            for expert, matrix in enumerate(value):
                seen = None if moments is None else Hessian(moments[node.name][expert])
                left, values, right = singular(matrix.T, seen, 0.01)
                lower.append(((left[:, :rank] * values[:rank]) @ right[:rank]).T)
            found.store[name] = torch.stack(lower).to(found.store[name].dtype)
    return found


def second_moments(graph: Graph, batches: list[list[torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Of what each expert of each product reads, with a little of the others'."""
    found: dict[str, torch.Tensor] = {}
    for batch in batches:
        values: dict[str, torch.Tensor] = {}

        def tap(node: Node, value: Any) -> None:
            if node.op == "grouped_mm":
                rows, ends = values[node.args[0].name], values[node.args[2].name].tolist()  # noqa: B023
                parts = [rows[a:b].double() for a, b in pairwise([0, *ends])]
                own = torch.stack([part.T @ part for part in parts])
                found[node.name] = found.get(node.name, torch.zeros(())) + own
            values[node.name] = value  # noqa: B023

        execute(graph, batch, tap=tap)
    return {name: each + 0.01 * each.mean(0) for name, each in found.items()}


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
        moments = second_moments(graph, every.batches)
        stacks = {n.args[1].name: n.args[1] for n in graph.nodes if n.op == "grouped_mm"}
        size = sum(graph.value(param).numel() for param in stacks.values())
        rest = Costs(graph, []).parameters() - size

        def note(name: str, removed: float, left: Graph, part: float) -> None:
            error = difference([every.outputs(left)], [wanted])  # noqa: B023
            found.setdefault((name, removed), []).append((part, error, every.accuracy(left)))

        for removed in REMOVED:
            note("each alone, weights", removed, alone(graph, removed), 1 - removed)
            note("each alone, by data", removed, alone(graph, removed, moments), 1 - removed)
            for name, whitened in (("shared, weights", False), ("shared, by data", True)):
                step = ShareExperts(remove=removed, whitened=whitened)
                left = after(step, graph, every.batches)
                part = (Costs(left, []).parameters() - rest) / size
                note(name, removed, left, part)
        print(seed, whole[-1], flush=True)
    rows: list[list[Any]] = [["as trained", 0, 1.0, 0.0, mean(whole)]]
    for (name, removed), some in found.items():
        rows.append([name, removed, *(mean([one[i] for one in some]) for i in range(3))])
    return Figures(rows, {"subject": SUBJECT})


if __name__ == "__main__":
    publish(
        "latent_experts",
        "MoLE: experts that share a factor",
        SAYS,
        ("experts' matrices", "to go", "parameters left", "error of the logits", "accuracy"),
        measure,
    )
