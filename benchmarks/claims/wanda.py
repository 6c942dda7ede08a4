"""A23, Wanda: half of the weights of each layer set to zero, by their size alone and by their size
times the norm of what they read; and what is left where the others make up for it.
"""

from __future__ import annotations

import time
from typing import Any

from base import Figures, Subject, minilm, publish, smollm2

from regauge.ir.blocks import repeated
from regauge.passes import Sparsify
from regauge.passes.structure.sparsity.zeros import Method, Recovery

SAYS = (
    "{subjects}. Claimed (A23): of the weights of a row those of least |W| ‖x‖ are worth least, so "
    "that with half of them at zero, none of the others changed, far less is lost than by "
    "magnitude, and the same for two of each four. SparseGPT also changes the others, which make "
    "up for the zeros; least squares, ours, are the best that they can do. Linear layers of the "
    "blocks, each by what it reads when those before it have their zeros (the authors prune a "
    "block at once); the head stays. "
    "Seconds are of the whole pass on a machine that others used too. Half of each row leaves "
    "the decoder a perplexity of {magnitude:.4g} by magnitude, {wanda:.4g} by Wanda, {swept:.4g} "
    "by SparseGPT and {solved:.4g} by least squares. Nothing runs faster for it here."
)
PATTERNS = {
    "rows": "half of each row",
    "2:4": "two of each four in a row",
}


WAYS: dict[tuple[Method, Recovery], str] = {
    ("magnitude", "none"): "magnitude",
    ("wanda", "none"): "Wanda",
    ("sweep", "sweep"): "SparseGPT",
    ("sweep", "least-squares"): "SparseGPT's, and least squares",
}
FACTS: dict[tuple[Method, Recovery], str] = dict(
    zip(WAYS, ("magnitude", "wanda", "swept", "solved"), strict=True)
)


def measure() -> Figures:
    rows: list[list[Any]] = []
    facts: dict[str, Any] = {}
    subjects = (smollm2(8, 4), minilm(16, 8))
    for subject in subjects:
        name = subject.title.split(";")[0]
        rows.append([name, "none", "", subject.quality(subject.graph), ""])
        for pattern, zeros in PATTERNS.items():
            for (score, recover), way in WAYS.items():
                start = time.perf_counter()
                step = Sparsify(None, pattern, score, recover, sites=layers(subject))
                graph = subject.after([step])
                seconds = round(time.perf_counter() - start)
                rows.append([name, zeros, way, subject.quality(graph), seconds])
                if pattern == "rows":
                    facts.setdefault(FACTS[score, recover], rows[-1][3])
                print(rows[-1], flush=True)
    facts["subjects"] = "; ".join(f"{s.title} ({s.measure})" for s in subjects)
    return Figures(rows, facts)


def layers(subject: Subject) -> tuple[str, ...]:
    """The linear layers of the repeated blocks."""
    blocks = repeated(subject.graph)
    return tuple(node.name for block in blocks for node in block.nodes if node.op == "linear")


if __name__ == "__main__":
    publish(
        "wanda",
        "Wanda's score: weights times the norms of what they read (A23)",
        SAYS,
        ("model", "zeros", "what goes", "perplexity or error", "seconds"),
        measure,
    )
