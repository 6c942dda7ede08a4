"""Schedules found by measuring: TVM's MetaSchedule, and the record of what it found.

A search draws schedules of each function of a module, builds and times the promising ones on this
machine, and learns from the times which to try next. What was found stands in two files, from which
the same code is built again without a search.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ...ir import TargetError
from .processor import x86_instructions

FILES = ("tuning_workloads.json", "tuning_records.json")
_ROUND = 16  # schedules of one function that are timed before the next function's turn
_NO_TIME = 1e9  # seconds; MetaSchedule writes 1e10 for a failure
_LOG = "tvm.s_tir.meta_schedule"


@dataclass(frozen=True)
class Records:
    """What a search found: the text of TVM's two files."""

    workloads: str
    records: str

    @property
    def count(self) -> int:
        """How many schedules were timed; one that was not built, or did not run, has no time."""
        times = (json.loads(line)[1][1] for line in self.records.splitlines())
        return sum(time is not None and min(time) < _NO_TIME for time in times)

    @classmethod
    def within(cls, folder: Path) -> Records | None:
        """Those that ``save`` wrote, if it did."""
        paths = [folder / name for name in FILES]
        if not all(path.is_file() for path in paths):
            return None
        return cls(*(path.read_text(encoding="utf-8") for path in paths))

    def save(self, folder: Path) -> None:
        for name, text in zip(FILES, (self.workloads, self.records), strict=True):
            (folder / name).write_text(text, encoding="utf-8")

    def apply(self, module: Any, target: Any) -> Any:
        """The module with the best schedule of each function that was tuned."""
        relax: Any = import_module("tvm.relax")
        with tempfile.TemporaryDirectory(prefix="regauge-") as name:
            self.save(Path(name))
            with target, _database(Path(name)), _quiet():
                return relax.transform.MetaScheduleApplyDatabase()(module)


def search(module: Any, target: Any, trials: int, *, seed: int = 0) -> Records:
    """Time this many schedules of the functions of a module, in all.

    Raises:
        TargetError: A package that the search needs is missing.
    """
    missing = [
        name for name in ("xgboost", "cloudpickle") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise TargetError(
            f"target 'tvm' needs {', '.join(missing)} to tune, which is not installed",
            do="pip install 'regauge[tvm]', or compile without tune",
        )
    x86_instructions()
    schedule: Any = import_module("tvm.s_tir.meta_schedule")
    integration: Any = import_module("tvm.s_tir.meta_schedule.relax_integration")
    with tempfile.TemporaryDirectory(prefix="regauge-") as name, _quiet():
        folder = Path(name)
        database = _database(folder)
        tasks = integration.extract_tasks(module, target)
        contexts, weights = integration.extracted_tasks_to_tune_contexts(
            extracted_tasks=tasks,
            work_dir=name,
            strategy=_strategy(),
            seed=seed,
        )
        if contexts:
            schedule.tune.tune_tasks(
                tasks=contexts,
                task_weights=weights,
                work_dir=name,
                max_trials_global=trials,
                num_trials_per_iter=_ROUND,
                builder=schedule.builder.LocalBuilder(
                    max_workers=contexts[0].num_threads, initializer=x86_instructions
                ),
                database=database,
            )
        found = [folder / name for name in FILES]
        return Records(*(path.read_text(encoding="utf-8") for path in found))


def _strategy() -> Any:
    """A search with few schedules in each generation: a round costs seconds, not a minute."""
    strategies: Any = import_module("tvm.s_tir.meta_schedule.search_strategy")
    return strategies.EvolutionarySearch(
        population_size=128, init_min_unmeasured=32, genetic_num_iters=2
    )


def _database(folder: Path) -> Any:
    database: Any = import_module("tvm.s_tir.meta_schedule.database")
    workloads, records = (str(folder / name) for name in FILES)
    return database.JSONDatabase(workloads, records)


@contextmanager
def _quiet() -> Generator[None]:
    """Without MetaSchedule's log, which it writes to its folder as well."""
    log = logging.getLogger(_LOG)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
