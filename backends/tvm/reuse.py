"""Schedules of an earlier search, used again where they fit.

They are of one device with one release of TVM, and of functions of one code and shape. What another
device has timed is not used: it is measured anew, or left, and a note says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...ir import TargetError
from .device import Device
from .measuring import Clock
from .tuning import Progress, Records, search

_UNTUNED = "not tuned: every function has its default schedule; tune=200 searches for better"


@dataclass(frozen=True)
class Tuned:
    """The schedules to compile with, if there are any, and what a report says of them."""

    records: Records | None
    notes: tuple[str, ...]

    def apply(self, module: Any, target: Any) -> Any:
        """The module with its schedules."""
        return module if self.records is None else self.records.apply(module, target)


def tuned(
    module: Any,
    target: Any,
    trials: int,
    *,
    folder: str,
    clock: Callable[[], Clock],
    progress: Progress,
) -> Tuned:
    """The schedules of a folder, and of a search for those that it has not.

    Args:
        trials: How many schedules to time; none searches for none.
        folder: Of a saved artifact, or empty.
        clock: What times them, asked for where there is something to time.

    Raises:
        TargetError: The folder has no schedules, or there is nothing to time them on.
    """
    known, notes, missing = None, [], 0
    if folder:
        known, missing, notes = _fitting(folder, module, target, trials)
    before = 0 if known is None else known.count
    if before:
        notes.append(f"{before} schedules were timed when {folder} was tuned")
    if trials and (known is None or missing):
        timing = clock()
        found = search(module, target, trials, clock=timing, known=known, progress=progress)
        place = timing.place and f" {timing.place}"
        notes.append(f"tuned by MetaSchedule: {found.count - before} schedules were timed{place}")
        return Tuned(found, tuple(notes))
    return Tuned(known, tuple(notes) if known else (*notes, _UNTUNED))


def _fitting(
    folder: str, module: Any, target: Any, trials: int
) -> tuple[Records | None, int, list[str]]:
    """What of a folder fits a module on a device, how many functions it has nothing for, and
    notes on what does not fit."""
    known, device = Records.within(Path(folder)), Device.of(target)
    if known is None:
        raise TargetError(
            f"{folder} holds no schedules of TVM's that were tuned",
            do="give the folder of an artifact that was compiled with tune and saved",
        )
    if known.device != device:
        end = "they are measured anew" if trials else "they are not used"
        return (
            None,
            0,
            [f"{folder}: schedules were tuned on {known.device}, and this is {device}: {end}"],
        )
    missing, count = known.unknown(module, target)
    if not missing:
        return known, 0, []
    end = "they are measured anew" if trials else "they have their default schedules"
    note = f"{folder}: {missing} of {count} functions have other code or shapes than were tuned"
    return known if missing < count else None, missing, [f"{note}: {end}"]
