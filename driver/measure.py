"""What was gained and what was lost: error against the original, and latency before and after."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..passes.manager import difference

HALF = 0.02  # what computing in half precision may cost a deep network


@dataclass(frozen=True)
class OutputError:
    """How far one output is from the original's."""

    name: str
    relative_l2: float
    cosine: float


@dataclass(frozen=True)
class Latency:
    """Wall-clock time of one call, in seconds, taken in turns so that both saw the same machine.

    Attributes:
        before: The median of the original.
        after: The median of the artifact.
        ratio: The median over the rounds of after / before.
        low: The lower quartile of that ratio.
        high: The upper quartile.
        rounds: How many rounds were run.
        baseline: What the original ran on.
    """

    before: float
    after: float
    ratio: float
    low: float
    high: float
    rounds: int
    baseline: str


def errors(found: Sequence[Any], wanted: Sequence[Any], names: Sequence[str]) -> list[OutputError]:
    """The error of every tensor among the outputs."""
    return [
        OutputError(name, difference([a], [b]), cosine(a, b))
        for name, a, b in zip(names, found, wanted, strict=True)
        if isinstance(b, torch.Tensor)
    ]


def unfaithful(found: Sequence[Any], meant: Sequence[Any], wanted: Sequence[Any]) -> str:
    """What is said of a target that computes something else than its graph; empty if it does not.

    Runtimes round in their own ways, and a number at the border of two codes gets the other one: as
    far apart as the graph itself is from the original, that is noise.

    Args:
        found: What the target gives.
        meant: What the ops of the graph give.
        wanted: What the original gives.
    """
    far, damage = distance(found, meant), distance(meant, wanted)
    if far <= HALF + damage:
        return ""
    return (
        f"computes something else than the graph that it was given: relative L2 {far:.2g}, where "
        f"the passes cost {damage:.2g}"
    )


def distance(found: Sequence[Any], wanted: Sequence[Any]) -> float:
    """The greatest relative L2 difference among the outputs in floating point that both have."""
    gaps = [
        difference([a], [b])
        for a, b in zip(found, wanted, strict=True)
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and not _is_whole(b)
    ]
    return max(gaps, default=0.0)


def _is_whole(value: torch.Tensor) -> bool:
    return not (value.is_floating_point() or value.is_complex())


def cosine(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The cosine between two tensors as vectors, over the entries where both are finite."""
    a, b = found.double().flatten(), wanted.double().flatten()
    both = a.isfinite() & b.isfinite()
    a, b = a[both], b[both]
    lengths = float(a.norm() * b.norm())
    return float(a @ b) / lengths if lengths else float(torch.equal(a, b))


def latency(
    before: Callable[[], Any],
    after: Callable[[], Any],
    baseline: str,
    *,
    seconds: float = 2.0,
    least: int = 5,
    most: int = 21,
) -> Latency:
    """Time two functions in turns, for about so many seconds."""
    for call in (before, after):  # the first call of a runtime plans its memory
        call()
    repeats = [max(1, int(0.005 / max(_time(call, 1), 1e-7))) for call in (before, after)]
    rounds: list[tuple[float, float]] = []
    start = time.perf_counter()
    while len(rounds) < least or (len(rounds) < most and time.perf_counter() - start < seconds):
        rounds.append((_time(before, repeats[0]), _time(after, repeats[1])))
    ratios = [b / a for a, b in rounds]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Latency(
        before=statistics.median(a for a, _ in rounds),
        after=statistics.median(b for _, b in rounds),
        ratio=middle,
        low=low,
        high=high,
        rounds=len(rounds),
        baseline=baseline,
    )


def _time(call: Callable[[], Any], repeat: int) -> float:
    """Seconds for one call."""
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - start) / repeat
