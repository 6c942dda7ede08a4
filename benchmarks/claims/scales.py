"""Scales before rounding to the nearest: AWQ (A02) and SmoothQuant+ (A56)."""

from __future__ import annotations

from typing import Any

from base import Figures, publish, smollm2

from regauge.ir import Graph
from regauge.passes import ChooseBest, Quantize, Smooth, awq
from regauge.passes.quantization.solvers import Range

GROUP = 64  # of weights: 128 does not divide the 576 channels of the stream
ALPHAS = (0.3, 0.5, 0.7)  # of SmoothQuant+, whose authors have steps of 0.05


SAYS = (
    "Perplexity with linear layers alone quantized, in groups of 64, since 128 does not divide 576 "
    "channels; {subject}. AWQ (A02): scales from mean magnitudes, searched for each site, and "
    "clipping by the error of each group's output (also for queries and keys, which the authors "
    "leave out). SmoothQuant+ (A56): one exponent for the model by the loss of its outputs, of "
    f"{', '.join(map(str, ALPHAS))}. The checkpoint's weights were themselves rounded to four bits "
    "in groups of 32 once, which makes four bits easy here for all."
)


def measure() -> Figures:
    subject = smollm2(8, 8)
    rows: list[list[Any]] = [["without quantization", "", subject.quality(subject.graph)]]
    for bits in (4, 3):
        weights = f"int{bits}-g{GROUP}-asym"

        def quality(graph: Graph, ranges: Range, weights: str = weights) -> float:
            step = Quantize(
                None,
                weights=weights,
                rounding="nearest",
                ranges=ranges,
                correct_bias=False,
                embeddings=False,
            )
            return subject.quality(subject.after([step], graph))

        candidates = tuple(
            Smooth(False, "power", (alpha,), None, bits, GROUP, insert=False) for alpha in ALPHAS
        )
        scaled = subject.after([awq(bits, GROUP)])
        plus = subject.after([ChooseBest(candidates, None, bits, GROUP)])
        ways: list[tuple[str, Graph, Range]] = [
            ("to the nearest", subject.graph, "range"),
            ("to the nearest, clipped by the error of weights", subject.graph, "error"),
            ("to the nearest, clipped by the output", subject.graph, "output"),
            ("AWQ's scales", scaled, "range"),
            ("AWQ's scales, clipped by the output", scaled, "output"),
            ("SmoothQuant+", plus, "range"),
        ]
        for text, graph, ranges in ways:
            rows.append([text, weights, quality(graph, ranges)])
            print(rows[-1], flush=True)
    return Figures(rows, {"subject": subject.title})


if __name__ == "__main__":
    publish(
        "scales",
        "Scales before rounding to the nearest",
        SAYS,
        ("method", "weights", "perplexity"),
        measure,
    )
