"""What the presets of eight bits and fewer do to an encoder and a vision model."""

from __future__ import annotations

from typing import Any

from base import Figures, digits_vit, minilm, publish

from regauge.backends.profiles import target
from regauge.passes import PRESETS

WIDTHS = ("w8a8", "fp8", "w6a6", "w4a8", "w4a4", "mxfp4")
SAYS = (
    "Relative L2 errors of the outputs, and accuracy. {subjects}. Activations in six and four bits "
    "and in floating point are simulated, and so is all arithmetic here: these are errors, not "
    "latencies. Integers beat floating point at either width: FP8 leaves more error than INT8, "
    "which is smoothed first and has static scales (of A55's claim that FP8 is the better for "
    "activations, nothing shows on models so small), and MXFP4, whose scales are powers of two, "
    "more than INT4 in the same groups with zero points. Four bits for weights and eight for "
    "activations cost MiniLM as much as six for both, and the vision transformer half of that. The "
    "vision transformer's accuracy stays within three images of 352 in all. SmolLM2 was not "
    "measured."
)


def measure() -> Figures:
    encoder, vision = minilm(8, 8), digits_vit()
    place = target("torch")
    rows: list[list[Any]] = [["float32", 0.0, 0.0, vision.quality(vision.graph)]]
    for name in WIDTHS:
        passes = PRESETS[name](place)
        seen = vision.after(passes)
        row = [name, encoder.quality(encoder.after(passes)), vision.error(seen)]
        row += [vision.quality(seen)]
        rows.append(row)
        print(row, flush=True)
    return Figures(rows, {"subjects": f"{encoder.title}; {vision.title}"})


if __name__ == "__main__":
    publish(
        "widths",
        "The presets of few bits",
        SAYS,
        ("preset", "MiniLM, error", "ViT, error", "ViT, accuracy"),
        measure,
    )
