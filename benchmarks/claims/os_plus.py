"""A48, OS+: shifts and scales before activations of few bits with one scale a tensor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from base import Figures, digits_vit, minilm, publish

from regauge.passes import Pass, Quantize, os_plus, smooth_quant

BITS = (8, 6, 4)
SAYS = (
    "{subjects}. Claimed (A48): a shift of each channel to the middle of its range and a scale by "
    "one threshold a site, folded into what makes a value and what reads it, leave less error than "
    "SmoothQuant's scales where activations have one scale a tensor, and most at few bits; of a "
    "post-LN encoder too, whose shortcuts get the original back by an op. Static activations with "
    "zero points from the range seen, weights with a scale a channel from theirs, to the nearest, "
    "biases corrected, in linear layers, simulated. SmoothQuant may put in such ops here as well. "
    "Borne out by the error in every row: at six bits MiniLM's is 0.19 after OS+, 0.44 after "
    "SmoothQuant and 0.55 without; at four bits the order is the same, but nothing is left of "
    "MiniLM there. What shifts add is a sixth at six and four bits; at eight they cost MiniLM a "
    "twentieth. Accuracy of the vision transformer hardly tells: the differences are of four "
    "images at most, and not in favour of OS+ at four bits."
)


def measure() -> Figures:
    rows: list[list[Any]] = []
    subjects = (minilm(16, 8), digits_vit())
    for subject in subjects:
        name = subject.title.split(";")[0].split(" on ")[0]
        for bits in BITS:
            activations = f"static-int{bits}-asym"
            quantize = Quantize(
                activations, f"int{bits}-channel", "nearest", embeddings=False, ranges="range"
            )
            # For one bit width, the same objective; ops are put in for all alike.
            smooth = replace(smooth_quant(0.5, activations), insert=True, bits=bits)
            plus = replace(os_plus(activations), bits=bits)
            ways: dict[str, tuple[Pass, ...]] = {
                "none": (),
                "SmoothQuant, exponent 1/2": (smooth,),
                "OS+, scales alone": (replace(plus, shift=False),),
                "OS+": (plus,),
            }
            for way, passes in ways.items():
                changed = subject.after(passes)
                graph = subject.after((quantize,), changed)
                accuracy = subject.quality(graph) if subject.measure == "accuracy" else ""
                rows.append([name, f"W{bits}A{bits}", way, subject.error(graph), accuracy])
                print(rows[-1], subject.error(changed), flush=True)
    return Figures(rows, {"subjects": "; ".join(subject.title for subject in subjects)})


if __name__ == "__main__":
    publish(
        "os_plus",
        "Shifts and scales for activations with one scale a tensor (A48, OS+)",
        SAYS,
        ("model", "bits", "gauge", "error", "accuracy"),
        measure,
    )
