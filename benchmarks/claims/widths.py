"""What the presets of eight bits and fewer do to an encoder, a vision model and a decoder."""

from __future__ import annotations

from typing import Any

from base import Figures, digits_vit, minilm, publish, smollm2

from regauge.backends.base import target
from regauge.passes import PRESETS

EIGHT = ("w8a8", "w8a8-dynamic", "w8", "w4a16", "w3a16")
FEW = ("w6a6", "w4a8", "w4a4", "fp8", "mxfp4")
SAYS = (
    "Relative L2 errors of the outputs, accuracy and perplexity. {subjects}. Activations in six "
    "and four bits and in floating point are simulated, and so is all arithmetic here: these are "
    "errors, not latencies."
)


def measure() -> Figures:
    encoder, vision, decoder = minilm(16, 8), digits_vit(), smollm2(4, 4)
    place = target("torch")
    rows: list[list[Any]] = [
        ["float32", 0.0, 0.0, vision.quality(vision.graph), decoder.quality(decoder.graph)]
    ]
    for name in (*EIGHT, *FEW):
        passes = PRESETS[name](place)
        seen = vision.after(passes)
        row = [name, encoder.quality(encoder.after(passes)), vision.error(seen)]
        row += [vision.quality(seen)]
        row += [decoder.quality(decoder.after(passes)) if name in FEW else ""]
        rows.append(row)
        print(row, flush=True)
    subjects = "; ".join(subject.title for subject in (encoder, vision, decoder))
    return Figures(rows, {"subjects": subjects})


if __name__ == "__main__":
    publish(
        "widths",
        "The presets of few bits",
        SAYS,
        ("preset", "MiniLM, error", "ViT, error", "ViT, accuracy", "SmolLM2, perplexity"),
        measure,
    )
