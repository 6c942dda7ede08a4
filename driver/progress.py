"""Progress on standard error: what is being done, bars for the long parts; only at a terminal."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text


class Count(MofNCompleteColumn):
    """``3/32``, where the end is known."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)


class Bars:
    """One live display for a whole compilation; bars come and go in it.

    with Bars() as bars:
        with bars.stage("tracing"):
            ...
        for batch in bars.track(batches, "calibrating"):
            ...
    """

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self.display = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            Count(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Bars:
        self.display.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.display.stop()

    @contextmanager
    def stage(self, description: str) -> Generator[None]:
        """Show a step of unknown length while it runs."""
        task = self.display.add_task(description, total=None)
        try:
            yield
        finally:
            self.display.remove_task(task)

    def track(self, sequence: Iterable[Any], description: str) -> Iterator[Any]:
        """The sequence, with a bar that advances as it is used."""
        total = len(sequence) if hasattr(sequence, "__len__") else None  # type: ignore[arg-type]
        task = self.display.add_task(f"  {description}", total=total)
        try:
            for item in sequence:
                yield item
                self.display.advance(task)
        finally:
            self.display.remove_task(task)
