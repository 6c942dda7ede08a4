"""A92, LLM-Drop: attentions left out of a decoder by the similarity of what enters and leaves."""

from __future__ import annotations

from typing import Any

from base import Figures, publish, smollm2

from regauge.passes import DropLayers
from regauge.passes.structure.costs import Costs
from regauge.passes.structure.depth.layers import LayerKind

SAYS = (
    "{subject}. Claimed (A92): of a decoder's layers attentions are the ones to leave out, by 1 - "
    "cos of what enters and leaves, norm included, at once; feed-forward networks and whole blocks "
    "cost more. Perplexity, nothing trained; what is saved when tokens are made is in "
    "[llm_drop_decode](llm_drop_decode.md). *Bridged*: the last linear map before a gap makes up "
    "for it (ours). Layer by layer attentions are the ones: 4 cost 22.0, 4 feed-forward networks "
    "31.0, which have three times their weights. By products they are not: 15 attentions cost 148 "
    "with 0.88 of the products left, 8 feed-forward networks 98 with 0.85, and 8 whole blocks 50 "
    "with 0.79. Bridged, these come to 36, 29 and 31."
)
CASES: tuple[tuple[LayerKind, int], ...] = (
    ("attention", 4),
    ("attention", 8),
    ("attention", 15),
    ("feedforward", 4),
    ("feedforward", 8),
    ("block", 4),
    ("block", 8),
)


def measure() -> Figures:
    subject = smollm2(16, 8)
    inputs = subject.calibration[0]
    whole = Costs(subject.graph, [], inputs).both()
    rows: list[list[Any]] = [["none", 0, 1.0, 1.0, subject.quality(subject.graph), ""]]
    for kind, count in CASES:
        step = DropLayers(remove=(count - 0.5) / 30, kinds=(kind,), recover=False)
        plain = subject.after([step])
        bridged = subject.after([DropLayers(remove=step.remove, kinds=(kind,))])
        left = Costs(plain, [], inputs).both()
        found = (subject.quality(plain), subject.quality(bridged))
        rows.append([kind, count, left[0] / whole[0], left[1] / whole[1], *found])
        print(rows[-1], flush=True)
    return Figures(rows, {"subject": subject.title})


if __name__ == "__main__":
    publish(
        "llm_drop",
        "LLM-Drop: attentions of a decoder left out",
        SAYS,
        ("what goes", "of 30", "parameters", "products", "perplexity", "bridged"),
        measure,
    )
