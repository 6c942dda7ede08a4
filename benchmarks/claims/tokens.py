"""GPTQ, GPTQ on a rotated model, and that with tokens that count by the attention that they get
(RSQ, A13)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from base import Figures, publish, smollm2

from regauge.passes import Choice, Quantize, Rotate
from regauge.passes.quantization.token_weights import TokenWeights

WEIGHTS = "int3-g64-asym"
SAYS = (
    f"Perplexity with linear layers in {WEIGHTS} (the tied table stays in floating point); "
    "{subject}. RSQ (A13) says GPTQ > rotated GPTQ > rotated GPTQ with Hessians that count each "
    "token by the attention that it gets."
)


def measure() -> Figures:
    subject = smollm2(8, 8)
    turned = subject.after([Rotate()])
    rows: list[list[Any]] = [
        ["without quantization", subject.quality(subject.graph)],
        ["turned, without quantization", subject.quality(turned)],
    ]
    known = {node.name for node in subject.graph.nodes}
    turns = [node.name for node in turned.nodes if node.op == "linear" and node.name not in known]
    for name, graph in (("GPTQ", subject.graph), ("turned, GPTQ", turned)):
        plain = Quantize(None, weights=WEIGHTS, embeddings=False)
        if graph is turned:
            plain = replace(plain, choices=dict.fromkeys(turns, Choice(None, None)))
        counting = replace(plain, token_weights="attention")
        for text, step in ((name, plain), (f"{name} with token weights", counting)):
            rows.append([text, subject.quality(subject.after([step], graph))])
            print(rows[-1], flush=True)
    counted = alike(TokenWeights.of(subject.graph, subject.context, "tokens"))
    facts = {"least": round(min(counted)), "mean": round(sum(counted) / len(counted))}
    return Figures(rows, {"subject": subject.title, "turns": len(turns), **facts})


def alike(weights: TokenWeights) -> list[float]:
    """For each attention, how many tokens of one weight would tell as much: (sum r)^2 / sum r^2."""
    counts = (torch.cat([part.flatten() for part in parts]) for parts in weights.counts.values())
    return [float(part.sum() ** 2 / part.square().sum()) for part in counts]


if __name__ == "__main__":
    publish(
        "tokens",
        "Rotation and token weights before GPTQ",
        SAYS,
        ("method", "perplexity"),
        measure,
    )
