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
STEPS = 120
SCORES: dict[str, Importance | str] = {
    "disturbed Taylor": Taylor(absolute=True),
    "magnitude": "magnitude",
}
SAYS = "{subject}"


def measure() -> Figures:
    subject = digits_vit()
    graph = subject.after(EXACT)
    whole = Costs(graph, []).parameters()
    rows: list[list[Any]] = [["none", "", "", 1.0, subject.quality(graph), ""]]
    for part in (0.5, 0.77):
        for label, score in SCORES.items():
            for recover in (False, True):
                step = Prune(part, "units", score=score, recover=recover)
                for way, run in (("at once", at_once), ("in turn", in_turn)):
                    plain, taught = run(subject, graph, step)
                    left = Costs(taught, []).parameters() / whole
                    name = f"{label}, made up" if recover else label
                    quality = subject.quality(plain), subject.quality(taught)
                    rows.append([f"{100 * part:.0f} %", name, way, left, *quality])
                    print(rows[-1], flush=True)
    return Figures(rows, {"subject": subject.title, "images": IMAGES, "steps": STEPS})


def at_once(subject: Subject, graph: Graph, step: Prune) -> tuple[Graph, Graph]:
    """Without and with learning afterwards."""
    less = subject.after([replace(step, roles=("stream", *INSIDE))], graph)
    return less, learned(subject, less, STEPS)


def in_turn(subject: Subject, graph: Graph, step: Prune) -> tuple[Graph, Graph]:
    """The same without any learning; with half of it after each removal."""
    plain = taught = graph
    for roles in (("stream",), INSIDE):
        some = replace(step, roles=roles)
        plain = subject.after([some], plain)
        taught = learned(subject, subject.after([some], taught), STEPS // 2)
    return plain, taught


if __name__ == "__main__":
    publish(
        "slimsam",
        "SlimSAM: pruning in turn with learning, and at once (A70)",
        SAYS,
        ("units gone", "score", "way", "parameters", "accuracy", "after learning"),
        measure,
    )
