"""A53, FlexQ: six bits everywhere, but eight for what the down projections read; and the product of
six-bit codes by their bit planes."""

from __future__ import annotations

from typing import Any

import torch
from base import Figures, publish, smollm2

from regauge.ir import Graph
from regauge.ir.formats import named
from regauge.ir.gauge import inputs_of_contractions
from regauge.ir.interpret import execute
from regauge.passes import Choice, Quantize

SIX, EIGHT = "int6-g128-pad", "int8-g128-pad"
SAYS = (
    "{subject}. Claimed (A53): six bits for all weights in groups of 128 and six for activations, "
    "but eight for what the down projections read, lose next to nothing. Linear layers of the "
    "blocks, to the nearest; groups of activations scaled as they come, the last of 576 channels "
    "filled up; simulated. The tied head stays. Six-bit codes of {rows} rows of what {layers} "
    "layers read, multiplied with codes of their weights bit plane by bit plane, gave the integer "
    "product exactly. Borne out in kind, not in size: eight bits at the down projections take away "
    "0.4 of the 2.2 that six bits everywhere cost, but 1.8 are left, where the authors lose a "
    "twentieth of one on models fifty times as large. Weights make 0.6 of it and activations 1.6, "
    "three quarters of that at other readers than the down projections; with eight bits for all "
    "activations it is 0.1. So this model asks for eight bits at more readers than the authors' "
    "models do."
)


def measure() -> Figures:
    subject = smollm2(4, 4)
    graph = subject.graph
    down = behind_products(graph)
    ways: dict[str, tuple[str | None, dict[str, Choice]]] = {
        "W6A16": (None, {}),
        "W6A6": (SIX, {}),
        "W6A6, W6A8 at the down projections": (SIX, {name: Choice(SIX, EIGHT) for name in down}),
        "W6A8": (EIGHT, {}),
    }
    rows: list[list[Any]] = [["float32", subject.quality(graph)]]
    for way, (activations, choices) in ways.items():
        step = Quantize(
            activations,
            SIX,
            "nearest",
            ranges="range",
            correct_bias=False,
            embeddings=False,
            choices=choices,
        )
        rows.append([way, subject.quality(subject.after([step]))])
        print(rows[-1], flush=True)
    rows_checked, layers = planes_checked(graph, subject.calibration[0])
    return Figures(rows, {"subject": subject.title, "rows": rows_checked, "layers": layers})


def behind_products(graph: Graph) -> list[str]:
    """The linear layers that read a product of two values: those behind a gated activation."""
    return [
        reader.name
        for site in inputs_of_contractions(graph)
        if site.value.op == "mul"
        for reader in site.readers
    ]


def planes_checked(graph: Graph, batch: list[torch.Tensor]) -> tuple[int, int]:
    """Multiply the codes of every layer with those of what it reads, by planes and as integers.

    Returns how many rows of how many layers were found to agree.
    """
    sites = {site.value: site for site in inputs_of_contractions(graph)}
    form, found = named("int6-channel"), {"rows": 0, "layers": 0}

    def tap(node: Any, value: torch.Tensor) -> None:
        if node in sites:
            rows = codes(form.quantize(value.flatten(0, -2)[:4]))
            for reader in sites[node].readers:
                weight = codes(form.quantize(graph.value(reader.args[1])[:32]))
                assert torch.equal(by_planes(rows, weight, 6), rows @ weight.T)
                found["rows"] += len(rows)
                found["layers"] += 1

    with torch.no_grad():
        execute(graph, batch, tap=tap)
    return found["rows"], found["layers"]


def codes(quantized: Any) -> torch.Tensor:
    """Integers, as the element has them."""
    return quantized.format.element.decode(quantized.codes, torch.float32).long()


def by_planes(left: torch.Tensor, right: torch.Tensor, bits: int) -> torch.Tensor:
    """``left @ right'`` of two's complement codes, by products of their bits (F10.1).

        a b' = sum over i, j of c[i] c[j] (a_i & b_j),    c = (1, 2, ..., -2^(bits - 1))

    Each of the products of planes is one of zeros and ones: an AND and a count on binary units.
    """
    factors = [2**i for i in range(bits - 1)] + [-(2 ** (bits - 1))]
    total = torch.zeros(len(left), len(right), dtype=torch.int64)
    for i, first in enumerate(factors):
        for j, second in enumerate(factors):
            total += first * second * (((left >> i) & 1) @ ((right >> j) & 1).T)
    return total


if __name__ == "__main__":
    publish(
        "flexq",
        "Six bits, and eight where it matters (A53, FlexQ)",
        SAYS,
        ("", "perplexity"),
        measure,
    )
