"""A schedule for every function that no tuner has been at: fair on any CPU, best on none.

What is computed position by position becomes one loop, parallel outside and vectors inside. A sum
of products keeps a tile of its results in registers, four rows of sixteen where that divides them:

    for i', j' (parallel):   acc[4, 16] = 0;   for k:  acc[i, :] += a[i, k] b[k, :]   (vectors)

Left as they are written, TVM's loops add one product after the other.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

LANES = 16  # results side by side: two vectors of AVX2, one of AVX-512
ROWS = 4
LARGE = 1 << 14  # operations that are worth a start of threads


def apply_default(module: Any) -> Any:
    """The module with each of its functions that has no schedule given one."""
    for name, function in module.functions_items():
        if _is_open(function):
            module[name] = _scheduled(function)
    return module


def _is_open(function: Any) -> bool:
    tirx: Any = import_module("tvm.tirx")
    return isinstance(function, tirx.PrimFunc) and not (
        function.attrs is not None and function.attrs.get("tirx.is_scheduled", False)
    )


def _scheduled(function: Any) -> Any:
    s_tir: Any = import_module("tvm.s_tir")
    schedule = s_tir.Schedule(function)
    try:
        root = schedule.get_sblock("root")
    except s_tir.ScheduleError:  # code that TVM wrote by hand, such as that of a sort
        return function
    _inline(schedule, root)
    names = [schedule.get(block).name_hint for block in schedule.get_child_blocks(root)]
    for name in names:
        left = schedule.get_child_blocks(schedule.get_sblock("root"))
        if name not in {schedule.get(block).name_hint for block in left}:
            continue  # what follows on a sum is computed where the sum is written
        trial = schedule.copy()
        block = trial.get_sblock(name)
        try:
            _tile(trial, block) if _kinds(trial, block)[1] else _spread(trial, block)
        except s_tir.ScheduleError:  # not a form for it: the loop stays as it was
            continue
        schedule = trial
    return schedule.mod["main"].with_attr("tirx.is_scheduled", True)


def _kinds(schedule: Any, block: Any) -> tuple[list[int], list[int]]:
    """The places of loops over results, and of those that are summed over."""
    tirx: Any = import_module("tvm.tirx")
    kinds = [axis.iter_type for axis in schedule.get(block).iter_vars]
    return (
        [i for i, kind in enumerate(kinds) if kind == tirx.IterVar.DataPar],
        [i for i, kind in enumerate(kinds) if kind != tirx.IterVar.DataPar],
    )


def _inline(schedule: Any, root: Any) -> None:
    """What is read by functions of single positions alone is computed where it is read."""
    s_tir: Any = import_module("tvm.s_tir")
    for block in schedule.get_child_blocks(root):
        readers = schedule.get_consumers(block)
        if _kinds(schedule, block)[1] or any(_kinds(schedule, reader)[1] for reader in readers):
            continue
        if readers:
            try:
                schedule.compute_inline(block)
            except s_tir.ScheduleError:
                continue


def _extent(schedule: Any, loop: Any) -> int | None:
    return getattr(schedule.get(loop).extent, "value", None)


def _factor(extent: int | None, most: int, least: int = 1) -> int:
    """The largest divisor that is no more than ``most``, and 1 where it is less than ``least``."""
    if extent is None:
        return 1
    found = max(size for size in range(1, most + 1) if extent % size == 0)
    return found if found >= least else 1


def _parallel(schedule: Any, loops: list[Any], work: int) -> None:
    """Share the outer loops among threads where that is worth it."""
    extents = [_extent(schedule, loop) for loop in loops]
    known = math.prod(extent for extent in extents if extent is not None)
    if loops and (None in extents or known * work >= LARGE):
        schedule.parallel(schedule.fuse(*loops) if len(loops) > 1 else loops[0])


def _spread(schedule: Any, block: Any) -> None:
    """One loop over positions: vectors of the innermost axis, threads for the rest."""
    loops = schedule.get_loops(block)
    if not loops:
        return
    width = _factor(_extent(schedule, loops[-1]), LANES, 4)
    if width == 1:
        _parallel(schedule, loops, 1)
        return
    outer, inner = schedule.split(loops[-1], [None, width])
    schedule.vectorize(inner)
    _parallel(schedule, [*loops[:-1], outer], width)


def _tile(schedule: Any, block: Any) -> None:
    """A sum, a tile of whose results stays in registers."""
    spatial, reduced = _kinds(schedule, block)
    loops = schedule.get_loops(block)
    if len(loops) != len(spatial) + len(reduced) or not spatial:
        return
    results, sums = [loops[i] for i in spatial], [loops[i] for i in reduced]
    width = _factor(_extent(schedule, results[-1]), LANES, 4)
    if width == 1:
        _parallel(schedule, results, 64)
        return
    row = _row(schedule, block, spatial)
    height = 1 if row is None else _factor(_extent(schedule, results[row]), ROWS)
    local = schedule.cache_write(block, 0, "local")
    _absorb(schedule, local)
    outer, lanes = schedule.split(results[-1], [None, width])
    rows: list[Any] = []
    if row is not None and height > 1:
        above, below = schedule.split(results[row], [None, height])
        results[row] = above
        rows = [below]
    outside = [*results[:-1], outer]
    schedule.reorder(*outside, *sums, *rows, lanes)
    schedule.reverse_compute_at(local, outside[-1])
    schedule.vectorize(lanes)
    if rows:
        schedule.unroll(rows[0])
    schedule.vectorize(schedule.get_loops(local)[-1])
    _parallel(schedule, outside, 64 * width * height)
    first = schedule.decompose_reduction(block, sums[0])
    schedule.vectorize(schedule.get_loops(first)[-1])


def _absorb(schedule: Any, written: Any) -> None:
    """Compute what follows on a sum at the same positions where the sum is written."""
    s_tir: Any = import_module("tvm.s_tir")
    readers = schedule.get_consumers(written)
    if len(readers) == 1 and _in_place(schedule, written, readers[0]):
        try:
            schedule.reverse_compute_inline(readers[0])
        except s_tir.ScheduleError:  # the result of the sum is wanted as well
            return


def _in_place(schedule: Any, written: Any, reader: Any) -> bool:
    """Whether a function of single positions reads what is written at its own alone."""
    if _kinds(schedule, reader)[1]:
        return False
    body, buffer = schedule.get(reader), schedule.get(written).writes[0].source
    places = [axis.var for axis in body.iter_vars]
    reads = [read.region for read in body.reads if read.source.same_as(buffer)]
    return len(reads) == 1 and len(places) == len(reads[0]) and all(
        part.min.same_as(place) for part, place in zip(reads[0], places, strict=True)
    )  # fmt: skip


def _row(schedule: Any, block: Any, spatial: list[int]) -> int | None:
    """Which loop over results reads the same vectors again: its variable is not in what the
    innermost one indexes."""
    tirx: Any = import_module("tvm.tirx")
    body = schedule.get(block)
    names = [body.iter_vars[i].var for i in spatial]
    reads = [_variables(tirx, read) for read in body.reads]
    vectors = [found for found in reads if any(var.same_as(names[-1]) for var in found)]
    for place in reversed(range(len(names) - 1)):
        if not any(var.same_as(names[place]) for found in vectors for var in found):
            return place
    return None


def _variables(tirx: Any, region: Any) -> list[Any]:
    return [var for part in region.region for var in tirx.analysis.undefined_vars(part.min)]
