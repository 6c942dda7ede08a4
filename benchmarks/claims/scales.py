"""Scales before rounding to the nearest: AWQ (A02) and SmoothQuant+ (A56)."""

from __future__ import annotations

from typing import Any

from base import Figures, minilm, publish

from regauge.ir import Graph
from regauge.passes import ChooseBest, Quantize, Smooth, awq
from regauge.passes.quantization.solvers import Range

GROUP = 128  # of weights
ALPHAS = (0.3, 0.5, 0.7)  # of SmoothQuant+, whose authors have steps of 0.05
SAYS = (
    "Claimed: of weights in few bits and activations in floating point, scales before rounding to "
    "the nearest take away much of the error. AWQ (A02): scales from the mean magnitudes of "
    "channels, searched for each site, then clipping by the error of each group's output. "
    "SmoothQuant+ (A56): one exponent for the model by the loss of its outputs. {subject}; error "
    "of the last hidden state. Linear layers alone, in groups of 128, simulated. Of a post-LN "
    "encoder most scales cost an op that gives the shortcut the original back. The losses by which "
    f"the exponent was chosen, for none and for {', '.join(map(str, ALPHAS))}: {{curve_4}} at four "
    f"bits, {{curve_3}} at three. Borne out in order: AWQ's scales take away a seventh of the "
    "error at either width, with clipping a fifth (four bits) and a quarter (three), of which "
    "clipping alone has the greater part at three; the exponent of SmoothQuant+ takes away 8 to 9 "
    "%, and its curve has its least at 1/2. None comes near to losing nothing. SmolLM2, of which "
    "the table of methods speaks, was not measured. Clipping is of queries and keys too, which the "
    "authors leave out."
)


def measure() -> Figures:
    subject = minilm(8, 8)
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
        candidates = tuple(Smooth(False, "power", (alpha,), None, bits, GROUP) for alpha in ALPHAS)
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
        ("method", "weights", "error"),
        measure,
    )
