"""GPTQ, GPTQ on a rotated model, and that with tokens that count by the attention that they get
(RSQ, A13)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from base import Figures, publish, smollm2

from regauge.passes import Quantize, Rotate

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
    for name, graph in (("GPTQ", subject.graph), ("turned, GPTQ", turned)):
        plain = Quantize(None, weights=WEIGHTS, embeddings=False)
        counting = replace(plain, token_weights="attention")
        for text, step in ((name, plain), (f"{name} with token weights", counting)):
            rows.append([text, subject.quality(subject.after([step], graph))])
            print(rows[-1], flush=True)
    return Figures(rows, {"subject": subject.title})


if __name__ == "__main__":
    publish(
        "tokens",
        "Rotation and token weights before GPTQ",
        SAYS,
        ("method", "perplexity"),
        measure,
    )
