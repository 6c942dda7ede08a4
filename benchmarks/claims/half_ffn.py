"""An encoder's feed-forward networks at a half and at a quarter of their neurons: what the
embeddings lose, by who goes and by how the rest makes up for it."""

from __future__ import annotations

from typing import Any

import torch
from base import Figures, Subject, minilm, publish

from regauge.ir import Graph, astype
from regauge.ir.interpret import execute
from regauge.passes import Distill, Pass, Prune
from regauge.passes.fitting import Fitter
from regauge.passes.manager import apply, difference
from regauge.passes.structure.costs import Costs

SCORES = ("magnitude", "activation", "taylor", "reconstruction")
PARTS = (0.5, 0.75)
TAUGHT = Distill(Fitter(steps=120))
SAYS = (
    "{subject}; neurons leave all feed-forward networks alike. Relative L2 error of the embeddings "
    "(the mean over a window of the last hidden states), and of these states themselves. *Made up "
    "for*: the second layer of each network is solved for again by least squares, with part of "
    "what was lost before it. *Learned*: after that the blocks learn one after the other, for "
    "{steps} steps each, from the whole model on the same windows; the least held-out error is "
    "kept. With half of the neurons gone the embeddings are off by 0.80 to 1.09 without, and by "
    "0.33 with those eliminated first that are lost least once the others make up for them, which "
    "is the best choice only then; learning adds little at a half, and a twelfth at three quarters."
)


def measure() -> Figures:
    subject = minilm(64, 16)
    whole = embeddings(subject, subject.graph)
    before = Costs(subject.graph, [], subject.calibration[0]).both()
    rows: list[list[Any]] = []
    for part in PARTS:
        for score in SCORES:
            plain = Prune(part, roles=("hidden",), score=score, recover=False)
            made_up = Prune(part, roles=("hidden",), score=score)
            ways: dict[str, list[Pass]] = {"no": [plain], "made up for": [made_up]}
            if score in ("magnitude", "reconstruction"):
                ways["learned"] = [made_up, TAUGHT]
            for how, steps in ways.items():
                graph, _ = apply(subject.graph, steps, subject.context)
                after = Costs(graph, [], subject.calibration[0]).both()
                error = difference([embeddings(subject, graph)], [whole])
                shares = [now / was for now, was in zip(after, before, strict=True)]
                rows.append([f"{part:g}", score, how, *shares, error, subject.quality(graph)])
                print(rows[-1], flush=True)
    return Figures(rows, {"subject": subject.title, "steps": TAUGHT.fitter.steps})


def embeddings(subject: Subject, graph: Graph) -> torch.Tensor:
    """Of all windows that the subject is judged by, ``[windows, n]``."""
    single, found = astype(graph, torch.float32), list[torch.Tensor]()

    def run(batch: list[Any]) -> torch.Tensor:
        found.append(execute(single, batch)[0])
        return found[-1]

    with torch.no_grad():
        subject.judge(run)
    return torch.cat(found).mean(1)


if __name__ == "__main__":
    heads = ["neurons gone", "by", "compensated", "parameters", "products", "embeddings", "states"]
    publish("half_ffn", "An encoder with half of its feed-forward neurons", SAYS, heads, measure)
