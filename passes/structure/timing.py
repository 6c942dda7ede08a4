"""How long graphs take on a target: timed in turns, so that all of them saw the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...ir import Graph
from ..base import Progress, unseen
from ..options import COUNT, check_numbers


class Lowers(Protocol):
    """A target: what makes of a graph something that runs on flat inputs."""

    def lower(self, graph: Graph, **options: Any) -> Callable[[Sequence[Any]], Any]: ...


@dataclass(frozen=True)
class Stopwatch:
    """What times graphs.

    Args:
        target: Where they run.
        inputs: On which, as flat graph inputs.
        rounds: How often each runs, in turn with the others.
        take: What of the times of one graph counts; of ``min`` others on the machine show least.
        clock: In seconds.
        progress: Called as ``progress(sequence, description)``; gives the sequence back.
        options: What the target's lowering takes besides, such as a number of threads.
    """

    target: Lowers
    inputs: Sequence[Any]
    rounds: int = 20
    take: Callable[[Sequence[float]], float] = statistics.median
    clock: Callable[[], float] = time.perf_counter
    progress: Progress = unseen
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        check_numbers(self, rounds=COUNT)

    def __call__(self, graphs: Sequence[Graph]) -> list[float]:
        """Seconds that each takes; all are in memory at once, lowered."""
        runs = [
            self.target.lower(graph, **self.options)
            for graph in self.progress(graphs, "lowering what is timed")
        ]
        for run in runs:  # the first call of a runtime plans its memory
            run(list(self.inputs))
        times: list[list[float]] = [[] for _ in runs]
        for _ in self.progress(range(self.rounds), "timing"):
            for run, taken in zip(runs, times, strict=True):
                start = self.clock()
                run(list(self.inputs))
                taken.append(self.clock() - start)
        return [self.take(taken) for taken in times]
