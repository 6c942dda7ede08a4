"""Ours: one budget over zeros and bits of weights, against each of them alone."""

from __future__ import annotations

from typing import Any

from base import Figures, digits_vit, publish

from regauge.ir import InputError
from regauge.passes import Allocate, Budget, Choice

SAYS = (
    "{subject}. Each weight gets a choice under a budget of bits a weight on average, as a file "
    "stores them that leaves zeros out: formats of 3 to 8 bits in groups of 64 (bits alone), zeros "
    "of several patterns in int8 (zeros alone), or any of both, with zeros in int4 too. "
    "`Allocate` with its own score, gradients, and integer programming; zeros by `Sparsify`, which "
    "recovers by least squares, then GPTQ that keeps them; error is the relative L2 error of the "
    "logits on the images that it is judged by. {seen} Here it chooses no zeros at all and is what "
    "bits alone are: a dense weight of few bits loses a tenth of what zeros in int8 lose at the "
    "same size. One small model, dense by training, one run of each, and no budget below what "
    "three bits take; what weights of which most are near to zero would choose is not said by this."
)
LIMITS = (5.0, 4.0, 3.4)
BITS = tuple(Choice(f"int{bits}-g64-fp16") for bits in (8, 6, 4, 3))
ZEROS = ("2:4", "rows-0.75", "rows-0.9")
EIGHT = tuple(Choice("int8-g64-fp16", zeros=zeros) for zeros in ZEROS)
FOUR = tuple(Choice("int4-g64-fp16", zeros=zeros) for zeros in ZEROS[:2])
WAYS: dict[str, tuple[Choice, ...]] = {
    "bits alone": BITS,
    "zeros alone": (BITS[0], *EIGHT),
    "both": (*BITS, *EIGHT, *FOUR),
}


def measure() -> Figures:
    subject = digits_vit()
    rows: list[list[Any]] = [["float32", "", 32.0, 0.0, subject.quality(subject.graph)]]
    won = 0
    for limit in LIMITS:
        errors: dict[str, float] = {}
        for way, choices in WAYS.items():
            try:
                graph, remarks = Allocate(choices, Budget(limit)).attempt(
                    subject.graph, subject.context
                )
            except InputError:  # no choices keep to the budget
                rows.append([limit, way, "none that small", "", ""])
                continue
            errors[way] = subject.error(graph)
            bits = remarks[0].data["bits"]
            rows.append([limit, way, bits, errors[way], subject.quality(graph)])
            print(rows[-1], remarks[0].text, flush=True)
        alone = [error for way, error in errors.items() if way != "both"]
        won += bool(alone) and errors["both"] < 0.99 * min(alone)
    seen = f"Both together lose less than either alone at {won} of the {len(LIMITS)} budgets."
    return Figures(rows, {"subject": subject.title, "seen": seen})


if __name__ == "__main__":
    publish(
        "joint_allocation",
        "One budget over zeros and bits",
        SAYS,
        ("budget", "what is chosen", "bits a weight", "error", "accuracy"),
        measure,
    )
