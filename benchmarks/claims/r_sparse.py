"""A87, R-Sparse: half of the weights of each linear layer not read, chosen by what comes, with and
without a product of thin matrices for the rest."""

from __future__ import annotations

from typing import Any

from base import Figures, publish, smollm2

from regauge.passes import SparsifyInputs

SPARSITY = 0.5
WAYS = {
    "|x|": SparsifyInputs(SPARSITY, by_weights=False, low_rank=False),
    "|x| ‖W‖": SparsifyInputs(SPARSITY, low_rank=False),
    "R-Sparse": SparsifyInputs(SPARSITY, (0.7, 0.8, 0.9, 1.0), whitened=False),
}
SAYS = (
    "{subject} (perplexity). Claimed (A87): with half of each linear layer's weights not read, the "
    "largest inputs by |x| times the norm of their column, and a low-rank product for the others, "
    "lose less than the largest by |x| alone. All linear layers of the blocks, each calibrated "
    "behind those before it; the share of columns in what is read is chosen for each layer from "
    "0.7, 0.8, 0.9 and 1 by what it loses (the authors search by evolution). Simulated: no speed "
    "is claimed. All tokens are sparse (the authors keep the first half of them dense)."
)


def measure() -> Figures:
    subject = smollm2(4, 4)
    rows: list[list[Any]] = [["dense", "", "", subject.quality(subject.graph)]]
    for name, step in WAYS.items():
        graph, remarks = step.attempt(subject.graph, subject.context)
        found = [r.data for r in remarks if r.applied]
        share = sum(data["share"] for data in found) / len(found)
        lost = sum(data["lost"] for data in found) / len(found)
        rows.append([name, share, lost, subject.quality(graph)])
        print(rows[-1], flush=True)
    return Figures(rows, {"subject": subject.title})


if __name__ == "__main__":
    publish(
        "r_sparse",
        "Rank-aware sparse inputs (A87)",
        SAYS,
        ["inputs kept by", "share of columns", "lost of a layer's result", "perplexity"],
        measure,
    )
