"""A06: dense networks made mixtures that give what they gave."""

from __future__ import annotations

from typing import Any

import torch
import zoo
from base import Figures, publish

import regauge as rg
from regauge.ir import astype
from regauge.ir.interpret import execute
from regauge.passes import Upcycle
from regauge.passes.manager import difference
from regauge.passes.structure.costs import Costs
from regauge.passes.structure.experts.mixtures import mixtures

SAYS = (
    "{subject}, its four feed-forward networks made mixtures of E copies of G shards, of which "
    "a row takes k. Claimed (A06): the mixture equals the dense model at the start where the "
    "router has virtual groups, so that a row takes as many copies of every shard. Parameters "
    "and products are parts of the dense model's; the error is that of the logits on 64 other "
    "images in float64, relative L2. It is so, to rounding, for all of the grid. With random "
    "rows without groups in the same router the error is 0.13 to 0.26, but for G = 1, where "
    "every expert is the whole network and, weights being normalised to a sum of one, any "
    "router will do."
)
GRID = ((2, 1, 1), (4, 1, 2), (8, 1, 2), (2, 2, 2), (4, 2, 4), (8, 2, 4), (2, 8, 8), (8, 8, 16))


def measure() -> Figures:
    model, data = zoo.digits_vit(), zoo.digits()
    images = data.test[:64]
    graph = astype(rg.trace(model, (images,)), torch.float64)
    inputs = [images.double()]
    with torch.no_grad():
        wanted = execute(graph, inputs)
        before = Costs(graph, []).both()
        rows: list[list[Any]] = []
        for copies, shards, active in GRID:
            mixed, _ = Upcycle(copies, shards, active)(graph)
            error = difference(execute(mixed, inputs), wanted)
            after = Costs(mixed, []).both()
            for mixture in mixtures(mixed)[0]:
                router = mixture.router.args[1].name
                random = torch.Generator().manual_seed(0)
                value = mixed.store[router]
                mixed.store[router] = (
                    torch.randn(value.shape, generator=random, dtype=torch.float64)
                    * value.shape[1] ** -0.5
                )
            apart = difference(execute(mixed, inputs), wanted)
            sizes = [after[i] / before[i] for i in range(2)]
            rows.append([copies, shards, active, *sizes, f"{error:.1e}", f"{apart:.1e}"])
            print(rows[-1], flush=True)
    subject = "A vision transformer of 203k parameters, trained on scikit-learn's digits"
    return Figures(rows, {"subject": subject})


if __name__ == "__main__":
    publish(
        "upcycling",
        "Upcycling: a dense model as mixtures of experts",
        SAYS,
        ("copies E", "shards G", "active k", "parameters", "products", "error", "random router"),
        measure,
    )
