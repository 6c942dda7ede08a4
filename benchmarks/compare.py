"""Our artifacts beside the peers': latency interleaved, error on data nobody calibrated on, size.

    python benchmarks/compare.py [minilm|smollm2|vit|resnet|whisper|resnet18|deit ...] [--rounds N]

Latency is CPU time on one thread, every contestant once a round, as a ratio to the plain export of
the same round; the median of the rounds and their middle half are shown. On a machine that others
use too, these ratios can be trusted, and milliseconds cannot. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import peers
import tasks
import torch

RESULTS = Path(__file__).parent / "results"
Run = Callable[[list[Any]], list[torch.Tensor]]


@dataclass
class Row:
    """One contestant's figures; latency is relative to the first's."""

    name: str
    quality: float
    megabytes: float
    seconds: float  # to compile
    latency: float = 1.0
    low: float = 1.0
    high: float = 1.0


def interleaved(runs: list[Run], inputs: list[Any], rounds: int) -> list[list[float]]:
    """CPU seconds of each contestant in each round."""
    for run in runs:
        run(inputs)
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, taken in zip(runs, times, strict=True):
            start = time.process_time()
            run(inputs)
            taken.append(time.process_time() - start)
    return times


def compare(task: tasks.Task, rounds: int) -> tuple[list[Row], list[str]]:
    """The figures of all contestants, and what those that failed raised."""
    rows: list[Row] = []
    failed: list[str] = []
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, make in peers.contestants(task, Path(folder)):
            start = time.process_time()
            try:
                run, size = make()
            except peers.Missing as missing:
                print(f"{name}: left out, {missing}")
                continue
            except Exception as error:  # a peer that does not take the model: that is a result too
                if name.startswith("Regauge"):
                    raise
                failed.append(f"{name} raised {type(error).__name__}: {str(error).splitlines()[0]}")
                print(failed[-1])
                continue
            seconds = time.process_time() - start
            rows.append(Row(name, task.quality(run), size / 1e6, seconds))
            runs.append(run)
            print(f"{name}: {task.measure} {rows[-1].quality:.4f}, {rows[-1].megabytes:.1f} MB")
        times = interleaved(runs, task.timed, rounds)
    for row, taken in zip(rows, times, strict=True):
        ratios = [mine / base for mine, base in zip(taken, times[0], strict=True)]
        row.latency = statistics.median(ratios)
        row.low, _, row.high = statistics.quantiles(ratios, n=4)
    return rows, failed


def table(task: tasks.Task, rows: list[Row], rounds: int) -> str:
    today = datetime.date.today().isoformat()
    lines = [
        f"# {task.title}",
        "",
        f"{today}, {platform.machine()} with {peers.vector_units()}, one thread, {rounds} rounds.",
        f"Latency is relative to the first row: {task.workload}. {task.protocol}",
        "",
        f"| | latency | middle half | {task.measure} | MB | CPU s to make |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.name} | {row.latency:.3f} | {row.low:.3f} to {row.high:.3f} "
            f"| {row.quality:.4f} | {row.megabytes:.1f} | {row.seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("tasks", nargs="*", default=["minilm"], metavar="TASK", help="minilm, ...")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    for name in options.tasks:
        task = tasks.TASKS[name]()
        rows, failed = compare(task, options.rounds)
        text = table(task, rows, options.rounds) + "".join(f"\n- {line}\n" for line in failed)
        print(text)
        (RESULTS / f"{name}.md").write_text(text)
        (RESULTS / f"{name}.json").write_text(
            json.dumps([asdict(row) for row in rows], indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
