"""A74, NViT: a vision transformer pruned to a latency, all its dimensions at once, by gradients."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from base import Figures, Subject, digits_vit, latencies, publish
from vision import EXACT, IMAGES, learned, products

from regauge.ir import Graph
from regauge.passes import Prune
from regauge.passes.allocation.solvers import DynamicProgramming
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
REMOVED, STEPS, TURNS, ROUNDS = 0.5, 200, 4, 40
SAYS = "{subject}"


def measure() -> Figures:
    subject = digits_vit()
    graph = subject.after(EXACT)
    table = measured(subject, graph)
    print(table.times.flatten().tolist(), flush=True)
    whole = {group.name: group.count for group in groups(graph)[0]}
    step = Prune(REMOVED, "latency", ROLES, Taylor(), multiple=8, latency=table, recover=False)
    solver = DynamicProgramming()
    ways: dict[str, Prune] = {
        "uniform": step,
        "uniform, made up": replace(step, recover=True),
        "one shot": replace(step, solver=solver),
        "one shot, made up": replace(step, solver=solver, recover=True),
    }
    graphs: dict[str, Graph] = {"whole": graph}
    after: dict[str, Graph] = {}
    for way, prune in ways.items():
        graphs[way] = subject.after([prune], graph)
        after[way] = learned(subject, graphs[way], STEPS)
    for way in ("one shot", "one shot, made up"):
        name = way.replace("one shot", f"{TURNS} rounds")
        graphs[name] = rounds(subject, graph, ways[way], learning=False)
        after[name] = rounds(subject, graph, ways[way], learning=True)
    # What learned in between has lost other units, so its latency is its own.
    timed = graphs | {f"{way}, learned": found for way, found in after.items()}
    times = latencies(timed, subject.calibration[0], ROUNDS)
    rows: list[list[Any]] = []
    for way, found in graphs.items():
        kept = {group.name: group.count for group in groups(found)[0]}
        taught = after.get(way)
        rows.append(
            [
                way,
                products(subject, found),
                table(kept) / table(whole),
                times[way] / times["whole"],
                times[f"{way}, learned"] / times["whole"] if taught else "",
                subject.quality(found),
                subject.quality(taught) if taught else "",
            ]
        )
        print(rows[-1], kept, flush=True)
    facts = {"subject": subject.title, "points": table.times.numel(), "images": IMAGES}
    return Figures(rows, facts | {"steps": STEPS, "rounds": TURNS})


def measured(subject: Subject, graph: Graph) -> LatencyTable:
    """Of models whose blocks all keep so many units, in one interleaved run."""
    found = groups(graph)[0]
    whole = {group.role: group.count for group in found}

    def times(points: Sequence[Mapping[Role, int]]) -> list[float]:
        graphs = {
            index: subject.after([_kept(role, n, whole[role]) for role, n in point.items()], graph)
            for index, point in enumerate(points)
        }
        return list(latencies(graphs, subject.calibration[0], ROUNDS).values())

    return LatencyTable.measured(GRID, times, found)


def _kept(role: Role, count: int, of: int) -> Prune:
    return Prune(1 - count / of, roles=(role,), score="magnitude", recover=False)


def rounds(subject: Subject, graph: Graph, prune: Prune, *, learning: bool) -> Graph:
    """To the same latency in equal parts, scored anew each time; with learning after each."""
    assert isinstance(prune.latency, LatencyTable)
    left = [1 - REMOVED * turn / TURNS for turn in range(TURNS + 1)]
    for before, then in itertools.pairwise(left):
        graph = subject.after([replace(prune, remove=1 - then / before)], graph)
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
            "learned: latency",
            "accuracy",
            "learned: accuracy",
        ),
        measure,
    )
