"""Tables of measured latencies: exact on their grid, linear between its points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from graphs import filled

from regauge.ir import InputError
from regauge.passes import Context
from regauge.passes.structure.groups import Role, groups
from regauge.passes.structure.width.latency import LatencyTable
from regauge.passes.structure.width.prune import Prune

BLOCKS = """
def graph(x: f64[64, 4], *, a: f64[6, 4], w: f64[8, 6], v: f64[6, 8], s: f64[8, 6], t: f64[6, 8],
          o: f64[2, 6]):
    h: f64[64, 6] = linear(x, a)
    f: f64[64, 8] = linear(h, w)
    e: f64[64, 8] = silu(f)
    d: f64[64, 6] = linear(e, v)
    r: f64[64, 6] = add(h, d)
    g: f64[64, 8] = linear(r, s)
    i: f64[64, 8] = silu(g)
    k: f64[64, 6] = linear(i, t)
    l: f64[64, 6] = add(r, k)
    y: f64[64, 2] = linear(l, o)
    return y
"""
GRID: Mapping[Role, list[int]] = {"stream": [1, 6], "hidden": [1, 8]}


def time(point: Mapping[Role, int]) -> float:
    return 3.0 + 2 * point["stream"] * point["hidden"]


def times(points: Sequence[Mapping[Role, int]]) -> list[float]:
    return [time(point) for point in points]


def table() -> LatencyTable:
    found, _ = groups(filled(BLOCKS)[0])
    return LatencyTable.measured(GRID, times, found)


def test_products_of_widths_are_given_exactly_between_the_points() -> None:
    found = table()
    assert found({}) == time({"stream": 6, "hidden": 8})
    kept = {"h/stream": 3, "f/hidden": 2, "g/hidden": 6}
    assert found(kept) == pytest.approx(3.0 + 2 * 3 * (2 + 6) / 2)


def test_a_graph_is_pruned_to_a_measured_latency() -> None:
    graph, inputs = filled(BLOCKS)
    found = table()
    roles: tuple[Role, ...] = ("stream", "hidden")
    step = Prune(0.5, "latency", roles, "magnitude", latency=found)
    _, remarks = step(graph, Context(inputs=inputs, calibration=[inputs]))
    kept = remarks[-1].data["kept"]
    assert found(kept) <= 0.5 * found({}) < found({name: n + 1 for name, n in kept.items()})


def test_grids_that_make_no_sense() -> None:
    found = table()
    with pytest.raises(InputError, match="none for a grid"):
        LatencyTable(GRID, torch.zeros(2, 3), found.blocks)
    with pytest.raises(InputError, match="no grid of hidden"):
        LatencyTable({"stream": [1, 6], "hidden": [8, 1]}, torch.zeros(2, 2), found.blocks)
    short: Mapping[Role, str] = {"hidden": found.blocks[0]["hidden"]}
    for blocks in ([], [*found.blocks, short]):
        with pytest.raises(InputError, match="do not each have a group of stream, hidden"):
            LatencyTable(GRID, found.times, blocks)
    uneven = [group for group in groups(filled(BLOCKS)[0])[0] if group.role == "hidden"]
    stream = [group for group in groups(filled(BLOCKS)[0])[0] if group.role == "stream"]
    with pytest.raises(InputError, match="2 groups of stream cannot be told apart by 4 blocks"):
        LatencyTable.measured(GRID, times, [*uneven, *uneven, *stream, *stream])
