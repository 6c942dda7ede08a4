"""A81, RD-Prune: how zeros are divided among layers, by curves of what each does to the outputs."""

from __future__ import annotations

from typing import Any

import torch
from base import Figures, Subject, digits_resnet, digits_vit, publish
from scipy.stats import spearmanr

from regauge.passes import Sparsify
from regauge.passes.structure.patterns import Whole
from regauge.passes.structure.rates import Damage, Layer, RateDistortion, Rates, named_rates

PARTS = (0.7, 0.8, 0.9, 0.95)
NAMES = {
    "even": "the same of each",
    "erk": "ERK",
    "magnitude": "one threshold of all",
    "rate-distortion": "curves, dynamic programming",
}
SAYS = (
    "{subjects}. Claimed: the error of the outputs with zeros in all layers is the sum of those "
    "with zeros in one alone, so that dynamic programming over curves of each layer finds the best "
    "division, and that is better than the same part of each and than ERK at 70 to 95 %."
)


def measure() -> Figures:
    rows: list[list[Any]] = []
    facts: dict[str, Any] = {"subjects": ""}
    titles: list[str] = []
    for subject in (digits_resnet(), digits_vit()):
        name = subject.title.split(" ")[0]
        titles.append(subject.title)
        rows.append([name, "0 %", "", "", "", subject.quality(subject.graph), ""])
        rates = {way: prepared(subject, way) for way in NAMES}
        for part in PARTS:
            for way, label in NAMES.items():
                rows.append([name, f"{100 * part:g} %", label, *judged(subject, rates[way], part)])
                print(rows[-1], flush=True)
    facts["subjects"] = "; ".join(titles)
    return Figures(rows, facts)


def found(subject: Subject) -> list[Layer]:
    """The layers that may lose weights."""
    return Sparsify(0.5, least=256).layers(subject.graph)


if __name__ == "__main__":
    publish(
        "rd_prune",
        "Zeros divided among layers by rate and distortion (A81, RD-Prune)",
        SAYS,
        [
            "model", "zeros", "divided by", "error, as the sum of layers", "error of all",
            "accuracy", "accuracy, the others made up",
        ],
        measure,
    )  # fmt: skip
