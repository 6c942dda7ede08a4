"""Schedules found by measuring: TVM's MetaSchedule, and the record of what it found.

A search draws schedules of each function of a module, builds and times the promising ones on this
machine, and learns from the times which to try next. What was found stands in two files, from which
the same code is built again without a search.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from ...ir import TargetError
from .device import Device
from .measuring import Clock
from .processor import x86_instructions
from .schedule import scheduled

Progress: TypeAlias = Callable[[Iterable[Any], str], Generator[Any]]
FILES = ("tuning_workloads.json", "tuning_records.json", "tuning_device.json")
_ROUND = 16  # schedules of one function that are timed before the next function's turn
_NO_TIME = 1e9  # seconds; MetaSchedule writes 1e10 for a failure
_LOG = "tvm.s_tir.meta_schedule"


def silent(sequence: Iterable[Any], description: str) -> Generator[Any]:
    """The sequence, and nothing to see of it."""
    yield from sequence


@dataclass(frozen=True)
class Records:
    """What a search found: the text of TVM's two files, and the device that schedules ran on."""

    workloads: str
    records: str
    device: Device

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
        workloads, records, device = (path.read_text(encoding="utf-8") for path in paths)
        return cls(workloads, records, Device(**json.loads(device)))

    def save(self, folder: Path) -> None:
        device = json.dumps(self.device.to_json(), indent=1) + "\n"
        for name, text in zip(FILES, (self.workloads, self.records, device), strict=True):
            (folder / name).write_text(text, encoding="utf-8")

    def apply(self, module: Any, target: Any) -> Any:
        """The module with the best schedule of each function that was tuned."""
        x86_instructions()
        relax: Any = import_module("tvm.relax")
        with target, self._open() as database, database, _quiet():
            return relax.transform.MetaScheduleApplyDatabase()(module)

    def unknown(self, module: Any, target: Any) -> tuple[int, int]:
        """How many functions of a module have no schedule here, and how many there are."""
        with self._open() as database, _quiet():
            tasks = [task.dispatched[0] for task in _tasks(module, target)]
            return sum(not _has(database, task, target) for task in tasks), len(tasks)

    @contextmanager
    def _open(self) -> Generator[Any]:
        with tempfile.TemporaryDirectory(prefix="regauge-") as name:
            self.save(Path(name))
            yield _database(Path(name))


def check_packages() -> None:
    """Raise ``TargetError`` where a package that a search needs is missing."""
    missing = [
        name for name in ("xgboost", "cloudpickle") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise TargetError(
            f"target 'tvm' needs {', '.join(missing)} to tune, which is not installed",
            do="pip install 'regauge[tvm]', or compile without tune",
        )


def search(
    module: Any,
    target: Any,
    trials: int,
    *,
    clock: Clock,
    known: Records | None = None,
    progress: Progress = silent,
    seed: int = 0,
) -> Records:
    """Time this many schedules of the functions of a module, in all.

    Of a processor the default schedules are timed as well: one that nothing beats stays.

    Args:
        known: What was found on this device before; functions that have a schedule keep it.

    Raises:
        TargetError: No server of a tracker was able to time one.
    """
    x86_instructions()
    schedule: Any = import_module("tvm.s_tir.meta_schedule")
    integration: Any = import_module("tvm.s_tir.meta_schedule.relax_integration")
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="regauge-") as name, _quiet():
        folder = Path(name)
        if known is not None:
            known.save(folder)
        database = _database(folder)
        tasks = [
            task
            for task in _tasks(module, target)
            if not _has(database, task.dispatched[0], target)
        ]
        contexts, weights = integration.extracted_tasks_to_tune_contexts(
            extracted_tasks=tasks,
            work_dir=name,
            strategy=_strategy(),
            seed=seed,
        )
        if contexts:
            threads = contexts[0].num_threads
            builder = schedule.builder.LocalBuilder(
                max_workers=threads, initializer=x86_instructions
            )
            defaults = list(_defaults(contexts, target))
            shown = progress(range(len(defaults) + trials), "timing schedules")
            with closing(shown) as steps:
                failures += _time(defaults, target, builder, clock, database, steps)
                step = _stepping(steps, failures)
                callbacks = [*schedule.MeasureCallback.create("default"), step]
                schedule.tune.tune_tasks(
                    tasks=contexts,
                    task_weights=weights,
                    work_dir=name,
                    max_trials_global=trials,
                    num_trials_per_iter=max(_ROUND, clock.servers),
                    builder=builder,
                    runner=clock.runner,
                    database=database,
                    measure_callbacks=callbacks,
                )
        workloads, records = ((folder / f).read_text(encoding="utf-8") for f in FILES[:2])
        found = Records(workloads, records, Device.of(target))
    if clock.servers and failures and not found.count:
        raise TargetError(
            f"no schedule was timed {clock.place}: {failures[0].strip().splitlines()[-1]}",
            do="look at what the servers print; each needs this release of TVM and a C++ compiler",
        )
    return found


def _defaults(contexts: list[Any], target: Any) -> Iterator[tuple[Any, Any]]:
    """Functions of a processor, each as a module, and their default schedules."""
    if target.kind.name != "llvm":
        return
    for context in contexts:
        with target:
            found = scheduled(context.mod["main"])
        if found is not None:
            yield context.mod, found


def _time(
    known: list[tuple[Any, Any]],
    target: Any,
    builder: Any,
    clock: Clock,
    database: Any,
    steps: Iterator[Any],
) -> list[str]:
    """Time schedules of a processor, and write down what they took; the errors of those that did
    not run."""
    schedule: Any = import_module("tvm.s_tir.meta_schedule")
    built = builder.build([schedule.builder.BuilderInput(found.mod, target) for _, found in known])
    shapes = [schedule.arg_info.ArgInfo.from_entry_func(module) for module, _ in known]
    ran = [place for place, made in enumerate(built) if made.artifact_path is not None]
    failures = [str(made.error_msg) for made in built if made.artifact_path is None]
    inputs = (
        schedule.runner.RunnerInput(built[place].artifact_path, "cpu", shapes[place])
        for place in ran
    )
    for place, result in zip(ran, clock.times(inputs), strict=True):
        next(steps, None)
        shutil.rmtree(Path(built[place].artifact_path).parent, ignore_errors=True)
        if not result.run_secs:
            failures.append(str(result.error_msg))
            continue
        module, found = known[place]
        workload = database.commit_workload(module)
        record = schedule.database.TuningRecord(
            found.trace, workload, result.run_secs, target, shapes[place]
        )
        database.commit_tuning_record(record)
    return failures


def _stepping(steps: Iterator[Any], failures: list[str]) -> Any:
    """A callback of the search that takes one step for each schedule that was timed, and gathers
    the errors of those that did not run."""
    measuring: Any = import_module("tvm.s_tir.meta_schedule.measure_callback")

    class Step(measuring.PyMeasureCallback):
        def apply(
            self, scheduler: Any, task_id: int, candidates: Any, built: Any, timed: Any
        ) -> None:
            for result in timed:
                next(steps, None)
                if result.error_msg:
                    failures.append(str(result.error_msg))

    return import_module("tvm.ir.utils").derived_object(Step)()


def _strategy() -> Any:
    """A search with few schedules in each generation: a round costs seconds, not a minute."""
    strategies: Any = import_module("tvm.s_tir.meta_schedule.search_strategy")
    return strategies.EvolutionarySearch(
        population_size=128, init_min_unmeasured=32, genetic_num_iters=2
    )


def _tasks(module: Any, target: Any) -> list[Any]:
    """The functions that schedules are for, each once."""
    integration: Any = import_module("tvm.s_tir.meta_schedule.relax_integration")
    return list(integration.extract_tasks(module, target))


def _has(database: Any, module: Any, target: Any) -> bool:
    """Whether a function, of its code and shapes, has a schedule."""
    return database.query_tuning_record(module, target, "main") is not None


def _database(folder: Path) -> Any:
    database: Any = import_module("tvm.s_tir.meta_schedule.database")
    workloads, records = (str(folder / name) for name in FILES[:2])
    return database.JSONDatabase(workloads, records)


@contextmanager
def _quiet() -> Generator[None]:
    """Without MetaSchedule's log, which it writes to its folder as well."""
    log = logging.getLogger(_LOG)
    before, handlers = log.level, log.handlers[:]
    log.setLevel(logging.ERROR)
    log.handlers.clear()  # TVM takes those that are there by their names, and most have none
    try:
        yield
    finally:
        log.setLevel(before)
        for handler in log.handlers:
            handler.close()  # those of the folder, which TVM leaves open
        log.handlers[:] = handlers
