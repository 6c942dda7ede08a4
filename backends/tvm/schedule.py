"""A schedule for every function that no tuner has been at: fair on any CPU, best on none.

What is computed position by position becomes one loop, parallel outside and vectors inside. A sum
of products keeps a tile of its results in registers:

    for o', i' (parallel):   acc[8, 32] = 0;   for k:  acc[i, :] += a[i, k] b[k, :]   (vectors)

Codes that lie four by four are multiplied by the processor's instruction for it, where it has one.
Left as they are written, TVM's loops add one product after the other.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

from .processor import DOT, has_dots, x86_instructions

LANES = 16  # results side by side: two vectors of AVX2, one of AVX-512
VECTORS = 2  # of these, whose loads are shared by the rows of a tile
TILE = 16  # vectors of results in registers
LARGE = 1 << 14  # operations that are worth a start of threads


def apply_default(module: Any) -> Any:
    """The module with each of its functions that has no schedule given one."""
    for name, function in module.functions_items():
        if _is_open(function) and (found := scheduled(function)) is not None:
            module[name] = found.mod["main"].with_attr("tirx.is_scheduled", True)
    return module


def _is_open(function: Any) -> bool:
    tirx: Any = import_module("tvm.tirx")
    return isinstance(function, tirx.PrimFunc) and not (
        function.attrs is not None and function.attrs.get("tirx.is_scheduled", False)
    )


def scheduled(function: Any) -> Any | None:
    """The default schedule of a function; ``None`` for code that TVM wrote by hand, such as that
    of a sort."""
    s_tir: Any = import_module("tvm.s_tir")
    schedule = s_tir.Schedule(function)
    try:
        root = schedule.get_sblock("root")
    except s_tir.ScheduleError:
        return None
    _inline(schedule, root)
    names = [schedule.get(block).name_hint for block in schedule.get_child_blocks(root)]
    for name in names:
        left = schedule.get_child_blocks(schedule.get_sblock("root"))
        if name not in {schedule.get(block).name_hint for block in left}:
            continue  # what follows on a sum is computed where the sum is written
        for form in (_dot, _tile) if _kinds(schedule, schedule.get_sblock(name))[1] else (_spread,):
            trial = schedule.copy()
            try:
                form(trial, trial.get_sblock(name))
            except s_tir.ScheduleError:  # not a form for it
                continue
            schedule = trial
            break
    return schedule


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
    if not (found := _loops(schedule, block)):
        return
    results, sums, rows = found
    extent = _extent(schedule, results[-1])
    width = LANES if extent is not None and extent % LANES == 0 else _factor(extent, LANES, 4)
    if width == 1:
        _parallel(schedule, results, 64)
        return
    count = _factor(None if extent is None else extent // width, VECTORS)
    local = schedule.cache_write(block, 0, "local")
    _absorb(schedule, local)
    outer, lanes = schedule.split(results[-1], [None, width * count])
    outside, inside, height = _rows(schedule, results, rows, outer, TILE // count)
    schedule.reorder(*outside, *sums, *inside, lanes)
    schedule.reverse_compute_at(local, outside[-1])
    schedule.vectorize(lanes)
    for loop in inside:
        schedule.unroll(loop)
    schedule.vectorize(schedule.get_loops(local)[-1])
    _parallel(schedule, outside, 64 * width * count * height)
    first = schedule.decompose_reduction(block, sums[0])
    schedule.vectorize(schedule.get_loops(first)[-1])


def _dot(schedule: Any, block: Any) -> None:
    """A sum of products of codes that lie four by four, by the processor's instruction for it.

    Raises:
        ScheduleError: It is none, or the processor has no such instruction.
    """
    s_tir: Any = import_module("tvm.s_tir")
    found = _loops(schedule, block)
    fours = found is not None and len(found[1]) > 1 and _extent(schedule, found[1][-1]) == 4
    if not (found and fours and has_dots()):
        raise s_tir.ScheduleError("it is no sum of products four by four")
    results, sums, rows = found
    x86_instructions()
    local = schedule.cache_write(block, 0, "global")
    _absorb(schedule, local)
    extent = _extent(schedule, results[-1])
    count = _factor(None if extent is None else extent // LANES, VECTORS)
    outer, vectors, lanes = schedule.split(results[-1], [None, count, LANES])
    outside, inside, height = _rows(schedule, results, rows, outer, TILE // count)
    *sums, four = sums
    schedule.reorder(*outside, *sums, *inside, vectors, lanes, four)
    schedule.reverse_compute_at(local, outside[-1])
    for loop in (*inside, vectors):
        schedule.unroll(loop)
    *_, written = schedule.get_loops(local)
    schedule.vectorize(schedule.split(written, [None, LANES])[1])
    _parallel(schedule, outside, 64 * LANES * count * height)
    first = schedule.decompose_reduction(block, sums[0])
    schedule.vectorize(schedule.get_loops(first)[-1])
    schedule.tensorize(lanes, DOT)
    schedule.set_scope(first, 0, "local")


def _loops(schedule: Any, block: Any) -> tuple[list[Any], list[Any], list[int]] | None:
    """The loops over results and those that are summed over, and which of the first are rows: they
    read the same vectors again."""
    spatial, reduced = _kinds(schedule, block)
    loops = schedule.get_loops(block)
    if len(loops) != len(spatial) + len(reduced) or not spatial:
        return None
    return (
        [loops[i] for i in spatial],
        [loops[i] for i in reduced],
        _again(schedule, block, spatial),
    )


def _rows(
    schedule: Any, results: list[Any], rows: list[int], outer: Any, most: int
) -> tuple[list[Any], list[Any], int]:
    """The loops outside of a tile, those over its rows, and how many rows it has.

    Vectors are read once for all rows, so that the loops over rows are the inner ones.
    """
    above, inside, height = dict(enumerate(results[:-1])), [], 1
    for place in reversed(rows):
        size = _factor(_extent(schedule, results[place]), most // height)
        if size > 1:
            above[place], below = schedule.split(results[place], [None, size])
            inside.insert(0, below)
            height *= size
    others = [loop for place, loop in above.items() if place not in rows]
    return [*others, outer, *(above[place] for place in rows)], inside, height


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
    """Whether a function of single positions reads what is written at its own alone, and all."""
    if _kinds(schedule, reader)[1] or _extents(schedule, written) != _extents(schedule, reader):
        return False
    body, buffer = schedule.get(reader), schedule.get(written).writes[0].source
    places = [axis.var for axis in body.iter_vars]
    reads = [read.region for read in body.reads if read.source.same_as(buffer)]
    return len(reads) == 1 and len(places) == len(reads[0]) and all(
        part.min.same_as(place) for part, place in zip(reads[0], places, strict=True)
    )  # fmt: skip


def _extents(schedule: Any, block: Any) -> list[str]:
    return [str(schedule.get(loop).extent) for loop in schedule.get_loops(block)]


def _again(schedule: Any, block: Any, spatial: list[int]) -> list[int]:
    """Which loops over results read the same vectors again: their variables are not in what the
    innermost one indexes."""
    tirx: Any = import_module("tvm.tirx")
    body = schedule.get(block)
    names = [body.iter_vars[i].var for i in spatial]
    reads = [_variables(tirx, read) for read in body.reads]
    vectors = [found for found in reads if any(var.same_as(names[-1]) for var in found)]
    return [
        place
        for place, name in enumerate(names[:-1])
        if not any(var.same_as(name) for found in vectors for var in found)
    ]


def _variables(tirx: Any, region: Any) -> list[Any]:
    return [var for part in region.region for var in tirx.analysis.undefined_vars(part.min)]
