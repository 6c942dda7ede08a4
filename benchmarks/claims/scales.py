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
    subject = smollm2(4, 4)
    rows: list[list[Any]] = [["without quantization", "", subject.quality(subject.graph)]]
    curves: dict[str, str] = {}
    for bits in (4, 3):
        weights = f"int{bits}-g{GROUP}-asym"

        def judge(text: str, graph: Graph, ranges: Range = "range", form: str = weights) -> None:
            step = Quantize(
                None, form, "nearest", ranges=ranges, correct_bias=False, embeddings=False
            )
            rows.append([text, form, subject.quality(subject.after([step], graph))])
            print(rows[-1], flush=True)

        judge("to the nearest", subject.graph)
        judge("to the nearest, clipped by the output", subject.graph, "output")
        scaled = subject.after([awq(bits, GROUP)])
        judge("AWQ's scales", scaled)
        judge("AWQ's scales, clipped by the output", scaled, "output")
        if bits < 4:
            continue  # SmoothQuant+ is of four bits
        candidates = tuple(
            Smooth(False, "power", (alpha,), None, bits, GROUP, insert=False) for alpha in ALPHAS
        )
        chosen = ChooseBest(candidates, None, bits, GROUP)
        graph, remarks = chosen.attempt(subject.graph, subject.context)
        judge("SmoothQuant+", graph)
        losses = [remarks[0].data["error_before"], *remarks[0].data["errors"]]
        curves[f"curve_{bits}"] = ", ".join(f"{loss:.4g}" for loss in losses)
    return Figures(rows, {"subject": subject.title, **curves})


if __name__ == "__main__":
    publish(
        "scales",
        "Scales before rounding to the nearest",
        SAYS,
        ("method", "weights", "perplexity"),
        measure,
    )
