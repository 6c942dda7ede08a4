"""A23, Wanda: half of the weights of each layer set to zero, by their size alone and by their size
times the norm of what they read; and what is left where the others make up for it.
"""

from __future__ import annotations

import time
from typing import Any

from base import Figures, Subject, minilm, publish, smollm2

from regauge.ir.blocks import repeated
from regauge.passes import Sparsify
from regauge.passes.structure.zeros import Method, Recovery

SAYS = "{subjects}."
PATTERNS = {
    "rows": "half of each row",
    "2:4": "two of each four in a row",
}


WAYS: dict[tuple[Method, Recovery], str] = {
    ("magnitude", "none"): "magnitude",
    ("wanda", "none"): "Wanda",
    ("sweep", "sweep"): "SparseGPT",
    ("search", "least-squares"): "search, and least squares",
}


def measure() -> Figures:
    rows: list[list[Any]] = []
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
                print(rows[-1], flush=True)
    return Figures(rows, {"subjects": "; ".join(f"{s.title} ({s.measure})" for s in subjects)})


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
