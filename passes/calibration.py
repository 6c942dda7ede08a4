"""What passes learn from data: statistics of values, gathered in one run over the calibration
batches.

Every statistic merges, so it does not matter how the data is cut into batches; only the sample of
rows is drawn batch by batch, evenly, and so without a random number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..ir import Graph, InputError, Node, astype
from ..ir.finite import is_finite
from ..ir.interpret import execute
from .base import Context

SAMPLE = 1024  # rows kept of each value, over all batches


@dataclass
class Observation:
    """What was seen of one value whose channels are on one axis.

    Attributes:
        low, high: The least and greatest of each channel, ``[n]``.
        rows: A sample of the value's rows, ``[k, n]``.
        count: How many rows were seen.
        parts: The same of each batch, in order.
    """

    low: torch.Tensor
    high: torch.Tensor
    samples: list[torch.Tensor] = field(default_factory=list[torch.Tensor])
    count: int = 0
    parts: list[Observation] = field(default_factory=list["Observation"])

    @property
    def rows(self) -> torch.Tensor:
        return torch.cat(self.samples)

    @property
    def absmax(self) -> torch.Tensor:
        """Of each channel, 0 where nothing was seen."""
        if not self.count:
            return torch.zeros_like(self.low)
        return torch.maximum(self.low.abs(), self.high.abs())

    def add(self, rows: torch.Tensor, keep: int) -> None:
        if len(rows):  # a mixture may send nothing to an expert
            part = Observation(rows.amin(0), rows.amax(0), count=len(rows))
        else:
            part = Observation.of_nothing(rows.shape[1])
        if keep:
            part.samples.append(evenly(rows, keep).clone())
        self._include(part)

    @classmethod
    def of_nothing(cls, size: int) -> Observation:
        """Of so many channels, before anything is seen."""
        limit = torch.full((size,), float("inf"))
        return cls(limit, -limit)

    @classmethod
    def of(cls, parts: Sequence[Observation]) -> Observation:
        """Of several batches together."""
        found = cls.of_nothing(len(parts[0].low))
        for part in parts:
            found._include(part)
        return found

    def folds(self, most: int) -> list[tuple[Observation, Observation]]:
        """For each of at most so many parts of the batches, what was seen of the others and what of
        this part; of a single batch, what was seen of it, twice."""
        parts = [part for part in self.parts if part.count]
        count = min(most, len(parts))
        if count < 2:
            return [(self, self)]
        found: list[tuple[Observation, Observation]] = []
        for fold in range(count):
            start, stop = len(parts) * fold // count, len(parts) * (fold + 1) // count
            others = Observation.of([*parts[:start], *parts[stop:]])
            found.append((others, Observation.of(parts[start:stop])))
        return found

    def _include(self, part: Observation) -> None:
        self.low = torch.minimum(self.low, part.low)
        self.high = torch.maximum(self.high, part.high)
        self.count += part.count
        self.samples += part.samples
        self.parts.append(part)


def observe(
    graph: Graph,
    context: Context,
    axes: Mapping[str, int | tuple[int, ...]],
    who: str,
    *,
    sample: int = SAMPLE,
) -> dict[str, Observation]:
    """Run the calibration batches in float32 and gather what is seen of some values.

    Args:
        axes: For the name of each value, the axis of its channels, or all over which they vary.
        who: The pass that asks, for messages and the progress bar.
        sample: How many rows to keep of each value, in all.
    """
    batches = context.need_calibration(who)
    single = astype(graph, torch.float32)
    found: dict[str, Observation] = {}
    keep = -(-sample // len(batches))
    for batch in context.progress(batches, f"{who}: watching activations"):
        mask = padding_mask(batch)

        def tap(node: Node, value: Any, mask: torch.Tensor | None = mask) -> None:
            if node.name not in axes:
                return
            rows = as_rows(value, axes[node.name], mask)
            refuse_non_finite(node, rows)
            if node.name not in found:
                found[node.name] = Observation.of_nothing(rows.shape[1])
            found[node.name].add(rows, keep)

        with torch.no_grad():
            execute(single, batch, tap=tap)
    return found


def refuse_non_finite(node: Node, found: torch.Tensor, how: str = "is not finite") -> None:
    """Raise, with the name and the line of a value, where what was found of it is not finite."""
    if not is_finite(found):
        raise InputError(
            f"{node.name} {how} on the calibration data",
            where=node.at,
            do="look for the op that makes such numbers, or give other data",
        )


def evenly(rows: torch.Tensor, keep: int) -> torch.Tensor:
    """At most so many of some rows, as far apart as they can be."""
    return rows[torch.linspace(0, len(rows) - 1, min(keep, len(rows))).round().long()]


def as_rows(
    value: torch.Tensor, axis: int | tuple[int, ...], mask: torch.Tensor | None = None
) -> torch.Tensor:
    """A value as a matrix of one row a position, ``[positions, n]``, without those of padding."""
    axes = (axis,) if isinstance(axis, int) else axis
    if mask is not None and axes == (-1,) and value.dim() > 2 and value.shape[:2] == mask.shape:
        value = value[mask]
    last = tuple(range(-len(axes), 0))
    return value.movedim(axes, last).reshape(-1, math.prod(value.shape[axis] for axis in axes))


def as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """A contraction's weight ``[O, n, ...]`` as ``[O', n]``; a convolution's has a row for each
    output and kernel position."""
    return weight if weight.dim() == 2 else weight.movedim(1, -1).reshape(-1, weight.shape[1])


def padding_mask(batch: Sequence[Any]) -> torch.Tensor | None:
    """Which positions are data, ``bool[batch, sequence]``, where an input says so.

    That is an integer or boolean input of rank 2 that holds ones and zeros, and both of them.
    """
    for value in batch:
        if isinstance(value, torch.Tensor) and value.dim() == 2 and not value.is_floating_point():
            if bool(((value == 0) | (value == 1)).all()) and bool((value == 0).any()):
                return value.bool()
    return None
