"""Every model family of ``transformers`` through the whole line; writes results/coverage.md.

    python benchmarks/coverage.py [FAMILY ...] [--resume] [--failed] [--merge] [--workers 1]
                                  [--only width]

Each family is built small, with random weights, in a process of its own that has a limit of time
and of memory, so that none stops the others. What is done is kept in a file of the temporary
folder; with ``--resume`` a stopped run goes on where it was, and with ``--failed`` families that
did not pass are run once more. With ``--merge`` the rows of the families that are named take the
place of those that the file has.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import multiprocessing
import multiprocessing.connection
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import blocks
import columns
import families
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from verdicts import Row, markdown, read, shares

RESULTS = Path(__file__).parent / "results"
KEPT = Path(tempfile.gettempdir()) / "regauge-coverage.jsonl"
PAGES = {"width": ("traced", "width", "experts")}  # besides that of all columns
SECONDS, BYTES = 120, 6 << 30  # of CPU time, and of memory beyond what is there at the start


@dataclass
class Running:
    """A family in its process."""

    row: Row
    process: Any
    pipe: Connection
    start: float = field(default_factory=time.monotonic)


def examine(name: str, asked: Sequence[str], pipe: Connection) -> None:
    """In the process of one family: send each column's verdict, or why there is no model."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    try:
        example = (blocks.build if name in blocks.names() else families.build)(name)
    except Exception as error:
        pipe.send(("built", False, columns.reason(error)))
        return
    pipe.send(("built", True, ""))
    for verdict in columns.check(example.model, example.kwargs, asked):
        pipe.send(verdict)


def run(names: list[str], asked: Sequence[str], workers: int) -> Iterator[Row]:
    """The rows of these families, in the order in which they end."""
    context = multiprocessing.get_context("fork")  # all that a family needs is imported already
    waiting, running = list(names), list[Running]()
    while waiting or running:
        while waiting and len(running) < workers:
            receive, send = context.Pipe(duplex=False)
            row = Row(waiting.pop(0))
            process = context.Process(target=examine, args=(row.name, asked, send), daemon=True)
            process.start()
            send.close()
            running.append(Running(row, process, receive))
        multiprocessing.connection.wait([one.pipe for one in running], timeout=1)
        for one in list(running):
            if _ended(one, asked):
                running.remove(one)
                yield one.row


def _ended(one: Running, asked: Sequence[str]) -> bool:
    """Take in what a family has sent; says whether that was all."""
    try:
        while one.pipe.poll():
            one.row.add(*one.pipe.recv())
        over = time.monotonic() - one.start > 4 * SECONDS  # it waits for something
        if not over:
            return False
        one.process.kill()
    except EOFError:
        over = False
    one.process.join()
    one.row.seconds = round(time.monotonic() - one.start, 1)
    one.row.end(_death(one.process.exitcode, over), asked)
    return True


def _death(code: int, over: bool) -> str:
    """Why a process ended before its last column; empty if it did not."""
    if over:
        return f"not done after {4 * SECONDS} s"
    if -code in (signal.SIGXCPU, signal.SIGKILL):
        return f"not done after {SECONDS} s of CPU time"
    return f"the process died: {signal.Signals(-code).name}" if code < 0 else ""


def warm_up() -> None:
    """Have PyTorch import what tracing and lowering need, once for all processes."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 8)).eval()
    for _ in columns.check(model, {"input": torch.randn(2, 8)}):
        pass


def read_kept(path: Path) -> dict[str, Row]:
    """The rows of a run that was stopped."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {row.name: row for row in (Row(**json.loads(line)) for line in lines)}


def table(rows: list[Row], asked: Sequence[str]) -> Table:
    """What is printed: a mark for each column, and the first reason of those that do not hold."""
    shown = Table("family", *asked, box=None)
    shown.add_column("reason", no_wrap=True, overflow="ellipsis")
    for row in rows:
        marks = [row.mark(column) for column in asked]
        shown.add_row(row.name, *marks, row.reason(asked))
    return shown


def merged(old: list[Row], new: list[Row]) -> list[Row]:
    """All rows in order, the new ones in the place of the old."""
    rows = {row.name: row for row in (*old, *new)}
    return [rows[name] for name in sorted(rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="by default all")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    parser.add_argument("--failed", action="store_true", help="run what did not pass once more")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time")
    parser.add_argument("--only", choices=PAGES, help="the columns of one page")
    parser.add_argument("--merge", action="store_true", help="put these families into the file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    chosen = columns.COLUMNS if options.only is None else PAGES[options.only]
    asked = options.families or [*families.names(), *blocks.names()]
    rows = read_kept(KEPT) if options.resume or options.failed else {}
    if options.failed:
        rows = {name: row for name, row in rows.items() if row.passes(chosen)}
    warm_up()
    todo = [name for name in asked if name not in rows]
    KEPT.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows.values()))
    with KEPT.open("a") as kept:
        for row in track(run(todo, chosen, options.workers), "families", len(todo), transient=True):
            rows[row.name] = row
            kept.write(json.dumps(asdict(row)) + "\n")
            kept.flush()
    done = [rows[name] for name in sorted(asked)]
    console = Console()
    console.print(table(done, chosen))
    console.print(*shares(done, chosen), sep="\n")
    page = RESULTS / ("coverage.md" if options.only is None else f"coverage-{options.only}.md")
    if options.merge:
        done = merged(read(page.read_text()), done)
    if options.merge or not options.families:
        head = f"{datetime.date.today()}, {families.versions()}, {blocks.version()}."
        page.write_text(markdown(done, chosen, head))


if __name__ == "__main__":
    main()
