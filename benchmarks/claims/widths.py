"""The presets of few bits, on the encoder that every peer quantizes badly.

PYTHONPATH=examples python benchmarks/claims/widths.py
"""

from __future__ import annotations

from typing import Any

import torch
from base import Figures, minilm, publish

from regauge.backends.base import target
from regauge.passes import PRESETS

WIDTHS = ("w8a8", "w8a8-dynamic", "w8", "w6a6", "w4a8", "w4a4", "w4a16", "w3a16", "fp8", "mxfp4")


SAYS = (
    "Relative L2 error of the last hidden state; {subject}. Activations in six and four bits and "
    "in floating point are simulated, and so is all arithmetic here: these are errors, not "
    "latencies."
)


def measure() -> Figures:
    torch.set_num_threads(1)
    subject = minilm()
    place = target("torch")
    rows: list[list[Any]] = []
    for name in WIDTHS:
        passes = PRESETS[name](place)
        rows.append([name, subject.quality(subject.after(passes))])
        print(rows[-1], flush=True)
    return Figures(rows, {"subject": subject.title})


if __name__ == "__main__":
    publish(
        "widths",
        "The presets of few bits",
        SAYS,
        ("preset", "relative L2"),
        measure,
    )
