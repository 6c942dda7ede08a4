"""A70, SlimSAM: the stream, learn, the widths inside of blocks, learn; or all at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from base import Figures, Subject, digits_vit, publish
from vision import EXACT, IMAGES, learned

from regauge.ir import Graph
from regauge.passes import Prune
from regauge.passes.structure.costs import Costs
from regauge.passes.structure.groups import Role
from regauge.passes.structure.width.importance import Importance, Taylor

INSIDE: tuple[Role, ...] = ("hidden", "keys", "values")
WAYS: dict[str, tuple[tuple[Role, ...], ...]] = {
    "at once": (("stream", *INSIDE),),
    "in turn": (("stream",), INSIDE),
}
STEPS, LONG = 120, 480
SCORES: dict[str, Importance | str] = {
    "disturbed Taylor": Taylor(absolute=True),
    "magnitude": "magnitude",
}
SAYS = (
    "{subject}. Claimed (A70): units of the stream out, learn, those inside of blocks (hidden, "
    "keys, values) out, learn, is better than all at once; importance is |w g| of the error from "
    "a disturbed output, relative to each group's mean (the undisturbed error has no gradient: "
    "`test_against_its_own_outputs_a_network_has_no_gradient`). The same part of each group goes "
    "either way, so both have the same parameters. *Made up*: readers make up for what goes, by "
    "least squares (ours). *Learned*: {steps} steps in all, half of them after each removal in "
    "turn, on {images} images without labels, to the whole model's outputs; *longer*: {long}. Not "
    "borne out here: at once is better in seven of eight pairs, and with four times the steps as "
    "well (0.940 against 0.903, made up 0.952 against 0.926); in turn wins by magnitude at 50 %, "
    "by less than a point. SlimSAM also learns from the values between blocks, which here have no "
    "counterpart once the stream is narrower, and takes far more steps. What counts at 77 % is "
    "that readers make up for what goes: 0.872 against 0.531 after as many steps."
)


def measure() -> Figures:
    subject = digits_vit()
    graph = subject.after(EXACT)
    whole = Costs(graph, []).parameters()
    rows: list[list[Any]] = [["none", "", "", 1.0, subject.quality(graph), "", ""]]
    for part in (0.5, 0.77):
        for label, score in SCORES.items():
            for recover in (False, True):
                step = Prune(part, "units", score=score, recover=recover)
                for way, turns in WAYS.items():
                    plain = removed(subject, graph, step, turns, 0)
                    long = LONG if part > 0.5 and label == "disturbed Taylor" else 0
                    after = [
                        subject.quality(removed(subject, graph, step, turns, steps))
                        if steps
                        else ""
                        for steps in (STEPS, long)
                    ]
                    left = Costs(plain, []).parameters() / whole
                    name = f"{label}, made up" if recover else label
                    part_gone = f"{100 * part:.0f} %"
                    rows.append([part_gone, name, way, left, subject.quality(plain), *after])
                    print(rows[-1], flush=True)
    facts = {"subject": subject.title, "images": IMAGES, "steps": STEPS, "long": LONG}
    return Figures(rows, facts)


def removed(
    subject: Subject,
    graph: Graph,
    step: Prune,
    turns: tuple[tuple[Role, ...], ...],
    steps: int,
) -> Graph:
    """The same part of each group gone, turn by turn, with equal parts of all learning after
    each."""
    for roles in turns:
        graph = subject.after([replace(step, roles=roles)], graph)
        graph = learned(subject, graph, steps // len(turns)) if steps else graph
    return graph


if __name__ == "__main__":
    publish(
        "slimsam",
        "SlimSAM: pruning in turn with learning, and at once (A70)",
        SAYS,
        ("units gone", "score", "way", "parameters", "accuracy", "learned", "longer"),
        measure,
    )
