"""Bits that ``auto`` chooses, beside the same for all weights: from a model to what runs."""

from __future__ import annotations

import time
from typing import Any

from base import Figures, Subject, minilm, publish

import regauge as rg
from regauge.ir.formats import named
from regauge.passes import Quantize

EVEN = "exact, all in "
ASKED = {
    "onnxruntime": (f"{EVEN}int4-g64-pad-asym", "auto:4.625", "w4a16", "auto:5.125", "w3a16",
                    "auto:4.09", "auto:3.6"),
    "torch": (f"{EVEN}int3-g64-pad-asym", "auto:3.6", "w3a16", "auto:4.09"),
}  # fmt: skip
ALL = {"w4a16": "int4-g32-asym", "w3a16": "int3-g32-asym"}  # the format of all weights
SAYS = (
    "The presets `auto:<bits>` beside `w4a16` and `w3a16`, and beside one format in groups of 64, "
    "quantized in the same way. {subject}; error of the last hidden state, on the target; tables "
    "are quantized with the rest, and are half of all weights. ONNX Runtime rounds what it reads "
    "to int8, and has 2, 4 and 8 bits: int3 takes four there. At as many bits the choice takes "
    "away 7 % of the error of `w4a16`; of `w3a16` a third where every width exists, and next to "
    "nothing on ONNX Runtime, where the table, for which nothing lies between, is in int2, but in "
    "four fifths of the file; the error at 3.6 bits is a little above that. A hundredth more bits "
    "than int4 in groups of 64 takes away 6 %. With the choice, compiling takes two to three times "
    "as long."
)


def row(subject: Subject, target: str, asked: str) -> list[Any]:
    """Compile for a target as users do, and judge what runs there."""
    passes: Any = asked
    if asked.startswith(EVEN):  # quantized as `auto` does it
        passes = ["exact", Quantize(None, asked.removeprefix(EVEN), make_up=1.0)]
    start = time.process_time()
    artifact = rg.compile(
        subject.graph,
        tuple(subject.calibration[0]),
        passes=passes,
        calibration=[tuple(batch) for batch in subject.calibration],
        target=target,
        measure=False,
    )
    seconds = time.process_time() - start
    form = ALL.get(asked, asked.removeprefix(EVEN))
    parts = artifact.report.passes[-1].remarks[0].data
    bits = parts["bits"] if asked.startswith("auto") else 8 * named(form).nbytes([64, 64]) / 64**2
    quality = subject.judge(lambda batch: artifact(*batch)[0])
    found = [target, asked, bits, artifact.report.bytes_after / 1e6, quality, round(seconds)]
    print(artifact.report, found, sep="\n", flush=True)
    return found


def measure() -> Figures:
    subject = minilm()
    rows = [row(subject, target, asked) for target, every in ASKED.items() for asked in every]
    return Figures(rows, {"subject": subject.title})


if __name__ == "__main__":
    publish(
        "automatic",
        "Bits chosen by `auto`, beside the same for all weights",
        SAYS,
        ("target", "passes", "bits a weight", "MB", "error", "CPU s"),
        measure,
    )
