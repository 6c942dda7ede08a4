"""A74, NViT: a vision transformer pruned to a latency, all its dimensions at once, by gradients."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from base import Figures, Subject, digits_vit, latencies, least_time, publish
from vision import EXACT, IMAGES, learned, products

from regauge.backends.profiles import target
from regauge.ir import Graph
from regauge.passes import Prune
from regauge.passes.budget import DynamicProgramming
from regauge.passes.structure.groups import ROLES, Role, groups
from regauge.passes.structure.width.importance import Taylor
from regauge.passes.structure.width.latency import LatencyTable

GRID: Mapping[Role, Sequence[int]] = {
    "stream": (16, 32, 64),
    "keys": (4, 16),
    "heads": (1, 4),
    "values": (4, 16),
    "hidden": (32, 256),
}
REMOVED, STEPS, TURNS, ROUNDS = 0.5, 120, 4, 100
SAYS = (
    "{subject}. Claimed (A74): all dimensions of a vision transformer (stream, heads, keys, "
    "values, hidden) pruned by one gradient score, by what each takes of a latency, beat equal "
    "pruning, and rounds beat one shot. To 0.5 of the latency, which a table says: {points} "
    "models with equal blocks, timed on ONNX Runtime, float32, one thread, batch 32, "
    "interpolated. Scored by `Taylor` without labels, multiples of 8 channels; *uniform* takes "
    "the same part of each group, the others what a solver finds. *Made up*: readers make up for "
    "what goes, by least squares (ours). Learning: {steps} steps on {images} images without "
    "labels, to the whole model's outputs. Latency is the least of 100 interleaved runs on a "
    "machine that others used, to some 5 %. The first half is borne out: one shot keeps 0.926 "
    "where uniform keeps 0.384, and 0.969 against 0.946 after learning. Once readers make up for "
    "what goes it is not, uniform keeps 0.952 against 0.929, and learning levels both. Rounds are "
    "worth a point before learning, which is within the 352 images' error, and nothing after it. "
    "What a solver found takes what the table says to 0.013; uniform widths run 0.05 slower than "
    "it says, so they had no less time."
)


def measure() -> Figures:
    subject = digits_vit()
    graph = subject.after(EXACT)
    table = measured(subject, graph)
    print(table.times.flatten().tolist(), flush=True)
    step = Prune(REMOVED, "latency", ROLES, Taylor(), multiple=8, latency=table, recover=False)
    solved = replace(step, solver=DynamicProgramming())
    ways: dict[str, Prune] = {"uniform": step, "one shot": solved}
    ways |= {f"{way}, made up": replace(prune, recover=True) for way, prune in ways.items()}
    graphs = {way: subject.after([prune], graph) for way, prune in ways.items()}
    taught = {way: learned(subject, found, STEPS) for way, found in graphs.items()}
    for made_up in (False, True):
        prune = replace(solved, recover=made_up)
        way = f"{TURNS} rounds" + ", made up" * made_up
        graphs[way] = rounds(subject, graph, prune, learning=False)
        taught[way] = learned(subject, graphs[way], STEPS)
        taught[f"{way}, learning after each"] = rounds(subject, graph, prune, learning=True)
    pruned = {"whole": graph, **graphs}
    timed = pruned | {way: found for way, found in taught.items() if way not in pruned}
    times = latencies(timed, subject.calibration[0], ROUNDS)
    whole = table(counts(graph, table))
    rows: list[list[Any]] = []
    for way, found in timed.items():
        rows.append(
            [
                way,
                products(subject, found),
                table(counts(found, table)) / whole,
                times[way] / times["whole"],
                subject.quality(pruned[way]) if way in pruned else "",
                subject.quality(taught[way]) if way in taught else "",
            ]
        )
        print(rows[-1], counts(found, table), flush=True)
    facts = {"subject": subject.title, "points": table.times.numel(), "images": IMAGES}
    return Figures(rows, facts | {"steps": STEPS, "rounds": TURNS})


def measured(subject: Subject, graph: Graph) -> LatencyTable:
    """Of models whose blocks all keep so many units: the least processor time, in turns."""
    inputs, timing = subject.calibration[0], least_time(ROUNDS)
    return LatencyTable.on(target("onnxruntime"), graph, inputs, GRID, **timing)


def _time(table: LatencyTable, rest: Mapping[str, int], kept: Mapping[str, int]) -> float:
    return table({**rest, **kept})


def counts(graph: Graph, table: LatencyTable) -> dict[str, int]:
    """How many units each group has; one of which one is left is none that could lose any."""
    left = {name: 1 for block in table.blocks for name in block.values()}
    return left | {group.name: group.count for group in groups(graph)[0]}


def rounds(subject: Subject, graph: Graph, prune: Prune, *, learning: bool) -> Graph:
    """To the same latency in equal parts, scored anew each time; with learning after each."""
    table = prune.latency
    assert isinstance(table, LatencyTable)
    left = [1 - REMOVED * turn / TURNS for turn in range(TURNS + 1)]
    for before, then in itertools.pairwise(left):
        now = counts(graph, table)
        step = replace(prune, remove=1 - then / before, latency=partial(_time, table, now))
        graph = subject.after([step], graph)
        if learning:
            graph = learned(subject, graph, STEPS // TURNS)
    return graph


if __name__ == "__main__":
    publish(
        "nvit",
        "NViT: a vision transformer pruned to a latency (A74)",
        SAYS,
        (
            "way",
            "products",
            "latency, by the table",
            "latency",
            "accuracy",
            "after learning",
        ),
        measure,
    )
