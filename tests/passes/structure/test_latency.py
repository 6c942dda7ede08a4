"""Tables of measured latencies: exact on their grid, linear between its points."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from graphs import filled
from timed import Counting

from regauge.backends.profiles import target
from regauge.ir import InputError
from regauge.passes import Context
from regauge.passes.structure.costs import Costs
from regauge.passes.structure.groups import Role, groups
from regauge.passes.structure.timing import Stopwatch
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


def test_graphs_are_timed_in_turns_by_medians() -> None:
    whole, inputs = filled(BLOCKS)
    on = Counting()
    shown: list[str] = []

    def progress(sequence: Iterable[Any], what: str) -> Iterator[Any]:
        shown.append(what)
        return iter(sequence)

    watch = Stopwatch(
        on, inputs, rounds=5, clock=on.clock, progress=progress, options={"late": 0.5}
    )
    products = Costs(whole, []).macs()
    assert watch([whole, whole]) == [products + 0.5 + 3] * 2  # of 1 to 5; 0 was the first call
    assert on.ran == [6, 6]
    assert shown == ["lowering what is timed", "timing"]
    least = Stopwatch(on, inputs, rounds=5, take=min, clock=on.clock)
    assert least([whole]) == [products + 1]
    with pytest.raises(InputError, match="rounds=0 is not what Stopwatch takes"):
        Stopwatch(on, inputs, rounds=0)


def test_a_table_is_measured_on_a_target() -> None:
    """What takes a second a product is bilinear in the widths, so the table is exact."""
    graph, inputs = filled(BLOCKS)
    on = Counting()
    found = LatencyTable.on(on, graph, inputs, GRID, rounds=1, clock=on.clock)
    assert on.ran == [2] * 4
    roles: tuple[Role, ...] = ("stream", "hidden")
    step = Prune(0.5, "latency", roles, "magnitude", latency=found, recover=False)
    less, remarks = step(graph, Context(inputs=inputs))
    assert found({}) == Costs(graph, []).macs() + 1
    assert remarks[-1].data["latency"] == pytest.approx(Costs(less, []).macs() + 1)
    assert remarks[-1].data["latency_before"] == found({})
    assert f"latency {found({}):.4g} to " in remarks[-1].text


def test_a_table_of_a_target_of_the_library() -> None:
    graph, inputs = filled(BLOCKS)
    found = LatencyTable.on(target("torch"), graph, inputs, GRID, rounds=1)
    assert found.times.shape == (2, 2) and bool((found.times > 0).all())


def test_a_table_for_blocks_that_are_not_alike_is_refused() -> None:
    graph, inputs = filled(BLOCKS)
    with pytest.raises(InputError, match="have 8 units, and a grid of \\[1, 4\\] does not end"):
        LatencyTable.on(Counting(), graph, inputs, {"hidden": [1, 4]})
    with pytest.raises(InputError, match="no group with the role 'heads'"):
        LatencyTable.on(Counting(), graph, inputs, {"heads": [1, 4]})
    wider, inputs = filled(BLOCKS.replace("s: f64[8, 6]", "s: f64[9, 6]")
                           .replace("t: f64[6, 8]", "t: f64[6, 9]")
                           .replace("g: f64[64, 8]", "g: f64[64, 9]")
                           .replace("i: f64[64, 8]", "i: f64[64, 9]"))  # fmt: skip
    with pytest.raises(InputError, match="groups of hidden have 8 and 9 units"):
        LatencyTable.on(Counting(), wider, inputs, {"hidden": [1, 8]})
    extra = graph.add("linear", graph["h"], graph.params["w"])
    graph.returns(graph.output.args[0], extra)
    graph.out_spec = None
    with pytest.raises(InputError, match=r"(?s)cannot all keep 1 of their 8 units: .*tie of w"):
        LatencyTable.on(Counting(), graph, filled(BLOCKS)[1], {"hidden": [1, 8]})


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
