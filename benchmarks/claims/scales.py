"""Scales before rounding to the nearest: AWQ (A02) and SmoothQuant+ (A56)."""

from __future__ import annotations

from typing import Any

from base import Figures, Subject, minilm, publish, smollm2

from regauge.ir import Graph
from regauge.passes import ChooseBest, Quantize, Smooth, awq
from regauge.passes.quantization.solvers import Range

ALPHAS = (0.3, 0.5, 0.7)  # of SmoothQuant+, whose authors have steps of 0.05
SAYS = (
    "Claimed: of weights in few bits and activations in floating point, scales before rounding to "
    "the nearest take away much of the error. AWQ (A02): scales from the mean magnitudes of "
    "channels, searched for each site, then clipping by the error of each group's output. "
    "SmoothQuant+ (A56): one exponent for the model by the loss of its outputs. {subjects}; "
    "error of the last hidden state, or perplexity. Linear layers alone, simulated. Of a post-LN "
    "encoder most scales cost an op that gives the shortcut the original back. The losses by which "
    f"the exponent was chosen, for none and for {', '.join(map(str, ALPHAS))}: {{curve_error_4}} "
    "at four bits and {curve_error_3} at three for MiniLM, {curve_perplexity_4} for SmolLM2. Borne "
    "out in order: AWQ's scales take away a seventh of MiniLM's error at either width, with "
    "clipping a fifth (four bits) and a quarter (three), of which clipping alone has the greater "
    "part at three; of what SmolLM2 loses in perplexity, half, and with clipping three quarters. "
    "The exponent of SmoothQuant+ takes away 8 to 9 %, and of SmolLM2's loss a quarter; its curve "
    "has its least at 0.5, and at 0.3. None comes near to losing nothing. Clipping is of queries "
    "and keys too, which the authors leave out."
)


def judged(subject: Subject, bits: int, group: int) -> tuple[list[list[Any]], str]:
    """The rows of a width, and the losses by which the exponent was chosen."""
    weights = f"int{bits}-g{group}-asym"
    rows: list[list[Any]] = []

    def judge(text: str, graph: Graph, ranges: Range = "range") -> None:
        step = Quantize(
            None, weights, "nearest", ranges=ranges, correct_bias=False, embeddings=False
        )
        quality = subject.quality(subject.after([step], graph))
        rows.append([subject.title.split(";")[0], text, weights, quality])
        print(rows[-1], flush=True)

    judge("to the nearest", subject.graph)
    judge("to the nearest, clipped by the output", subject.graph, "output")
    scaled = subject.after([awq(bits, group)])
    judge("AWQ's scales", scaled)
    judge("AWQ's scales, clipped by the output", scaled, "output")
    candidates = tuple(Smooth(False, "power", (alpha,), None, bits, group) for alpha in ALPHAS)
    chosen = ChooseBest(candidates, None, bits, group)
    graph, remarks = chosen.attempt(subject.graph, subject.context)
    judge("SmoothQuant+", graph)
    losses = [remarks[0].data["error_before"], *remarks[0].data["errors"]]
    return rows, ", ".join(f"{loss:.4g}" for loss in losses)


def measure() -> Figures:
    encoder, decoder = minilm(8, 8), smollm2(4, 4)
    rows: list[list[Any]] = []
    facts = {"subjects": f"{encoder.title}; {decoder.title}"}
    for subject, bits, group in ((encoder, 4, 128), (encoder, 3, 128), (decoder, 4, 64)):
        name = subject.title.split(";")[0]
        if all(row[0] != name for row in rows):
            rows.append([name, "without quantization", "", subject.quality(subject.graph)])
        found, curve = judged(subject, bits, group)
        facts[f"curve_{subject.measure}_{bits}"] = curve
        rows += found
    return Figures(rows, facts)


if __name__ == "__main__":
    publish(
        "scales",
        "Scales before rounding to the nearest",
        SAYS,
        ("model", "method", "weights", "error or perplexity"),
        measure,
    )
