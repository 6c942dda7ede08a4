"""A87, R-Sparse: half of the weights of each linear layer not read, chosen by what comes, with and
without a product of thin matrices for the rest; and what a product of the chosen columns takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from base import Figures, publish, smollm2
from torch.nn import functional as F

from regauge.passes import SparsifyInputs

SPARSITY = 0.5
WAYS = {
    "|x|": SparsifyInputs(SPARSITY, by_weights=False, low_rank=False),
    "|x| ‖W‖": SparsifyInputs(SPARSITY, low_rank=False),
    "R-Sparse": SparsifyInputs(SPARSITY, (0.7, 0.8, 0.9, 1.0), whitened=False),
    "R-Sparse, fitted to what is left": SparsifyInputs(SPARSITY, (0.8, 0.9, 1.0)),
}
SAYS = (
    "{subject} (perplexity). Claimed (A87): with half of each linear layer's weights not read, the "
    "largest inputs by |x| times the norm of their column, and a low-rank product for the others, "
    "lose less than the largest by |x| alone. All linear layers of the blocks, each calibrated "
    "behind those before it; the share of columns in what is read is chosen for each layer from "
    "0.7, 0.8, 0.9 and 1 by what it loses (the authors search by evolution). *Fitted to what is "
    "left*: the pass's own way, the product is the best for what is left to it on calibration data "
    "(`whitened=True`); from 0.8, 0.9 and 1, where the pass tries 0.5 to 1, for it fits anew for "
    "each. All tokens are sparse (the authors keep the first half of them dense), and all is "
    "simulated; what a product of columns takes has [a page of its own](r_sparse_gemv.md). Not "
    "borne out: each step loses less of single layers' results (0.0250, 0.0242, 0.0241, 0.0237) "
    "and none lowers perplexity, which |x| alone keeps lowest. The product fitted to 1024 tokens "
    "loses least of layers' results on these and most perplexity on other text. On 4 windows the "
    "first three were at 26.2, 27.6 and 26.2: differences as small as these depend on the text."
)


def measure() -> Figures:
    subject = smollm2(4, 16)
    rows: list[list[Any]] = [["dense", "", "", subject.quality(subject.graph)]]
    for name, step in WAYS.items():
        graph, remarks = step.attempt(subject.graph, subject.context)
        found = [r.data for r in remarks if r.applied]
        share = sum(data["share"] for data in found) / len(found)
        lost = sum(data["lost"] for data in found) / len(found)
        rows.append([name, share, lost, subject.quality(graph)])
        print(rows[-1], flush=True)
    return Figures(rows, {"subject": subject.title})


# -- What it takes -------------------------------------------------------------------------------

SIZES = ((1536, 576), (576, 1536), (4096, 4096))  # outputs, inputs
LEFT_OUT = (0.0, 0.25, 0.5, 0.75, 0.9)
SECONDS = 4.0  # for each size
GEMV_SAYS = (
    "Claimed (A87): what is not read saves time. One vector times a dense matrix, against the "
    "choice of what counts (by |x| times the norm of the column, above a threshold known "
    "beforehand) and the product of these columns alone, from a weight stored by columns: *copied* "
    "together for a dense product, or *gathered*, read where they lie and summed "
    "(`embedding_bag`). Random numbers, float32, PyTorch on {threads} thread, the least processor "
    "time of interleaved runs in {seconds} seconds a size; 1536 x 576 and 576 x 1536 are SmolLM2's "
    "largest, 4096 x 4096 is larger than the caches. Each result is checked against the dense "
    "product of what is kept. Borne out in part: with half of the columns left out, what R-Sparse "
    "is for, gathering is 1.15, 0.98 and 1.22 times as fast as the dense product, with three "
    "quarters 1.5, 1.3 and 3.0. Summing columns by itself is slower than the dense product (0.62 "
    "to 0.75 of its speed with nothing left out), and copying pays from three quarters or nine "
    "tenths on. The low-rank product for the rest would come on top. No graph of ours calls such a "
    "product."
)


def gemv() -> Figures:
    rows: list[list[Any]] = []
    for outputs, inputs in SIZES:
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(outputs, inputs, generator=generator)
        x = torch.randn(inputs, generator=generator)
        columns, norms = weight.T.contiguous(), weight.norm(dim=0)
        runs: dict[Any, Callable[[], torch.Tensor]] = {"dense": lambda w=weight, x=x: w.mv(x)}
        for part in LEFT_OUT:
            limit = float((x.abs() * norms).quantile(part)) if part else -1.0
            for way in (copied, gathered):
                run = partial(way, columns, norms, x, limit)
                runs[part, way] = run
                kept = torch.where(x.abs() * norms > limit, x, 0.0)
                torch.testing.assert_close(run(), weight.mv(kept), rtol=1e-3, atol=1e-3)
        times = interleaved(runs)
        for part in LEFT_OUT:
            found = [times["dense"], times[part, copied], times[part, gathered]]
            micro = [1e6 * seconds for seconds in found]
            size = f"{outputs} x {inputs}"
            rows.append([size, f"{100 * part:.0f} %", *micro, found[0] / found[2]])
            print(rows[-1], flush=True)
    return Figures(rows, {"threads": torch.get_num_threads(), "seconds": f"{SECONDS:g}"})


def copied(
    columns: torch.Tensor, norms: torch.Tensor, x: torch.Tensor, limit: float
) -> torch.Tensor:
    """The columns that count are copied, and the product is dense."""
    kept = (x.abs() * norms > limit).nonzero()[:, 0]
    return x.index_select(0, kept) @ columns.index_select(0, kept)


def gathered(
    columns: torch.Tensor, norms: torch.Tensor, x: torch.Tensor, limit: float
) -> torch.Tensor:
    """The columns that count are read where they lie, and summed."""
    kept = (x.abs() * norms > limit).nonzero().T
    weights = x[kept[0]][None]
    return F.embedding_bag(kept, columns, per_sample_weights=weights, mode="sum")[0]


def interleaved(runs: dict[Any, Callable[[], torch.Tensor]]) -> dict[Any, float]:
    """The least processor time of each."""
    times, start = dict.fromkeys(runs, float("inf")), time.monotonic()
    while time.monotonic() - start < SECONDS:
        for name, run in runs.items():
            before = time.process_time()
            run()
            times[name] = min(times[name], time.process_time() - before)
    return times


if __name__ == "__main__":
    publish(
        "r_sparse",
        "Rank-aware sparse inputs (A87)",
        SAYS,
        ["inputs kept by", "share of columns", "lost of a layer's result", "perplexity"],
        measure,
    )
    publish(
        "r_sparse_gemv",
        "What a product of chosen columns takes (A87)",
        GEMV_SAYS,
        ["weight", "left out", "dense, μs", "copied, μs", "gathered, μs", "dense / gathered"],
        gemv,
        script="r_sparse",
    )
