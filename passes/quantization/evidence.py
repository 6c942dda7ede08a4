"""What rounding knows of a value that contractions read: from the exact stream and from the one
behind the quantized prefix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import torch

from ...ir import InputError, Node
from .solvers import Drift, Hessian, held_out_share, making_up

DAMP = 0.3  # of what is made up for: on fresh text better than 0.1, and 0.01 only fits the sample
MakeUp: TypeAlias = float | Literal["held-out"]
ROWS_PER_CHANNEL = 1  # below, weights are rounded to the nearest: a solver would fit the sample


@dataclass
class Evidence:
    """Means and products of the rows ``[k, n]`` of a value.

    Attributes:
        count: How many rows there are.
        mean_exact, mean: Of the exact stream, and of the one at hand, ``[n]``.
        hessian: Of the rows at hand; ``None`` where they are too few to say anything of most
            directions.
        halves: How the streams differ, over one half of the rows and over the other, where that
            was asked.
    """

    count: int
    mean_exact: torch.Tensor
    mean: torch.Tensor
    hessian: Hessian | None = None
    halves: tuple[Drift, ...] = ()

    @classmethod
    def of(
        cls,
        value: Node,
        exact: Sequence[torch.Tensor],
        rows: Sequence[torch.Tensor],
        *,
        counts: Sequence[torch.Tensor] | None = None,
        centered: bool = False,
        drifts: bool = False,
    ) -> Evidence:
        """What is in the rows of a value, one tensor a batch.

        Args:
            exact: The same rows of the exact stream.
            counts: What each row counts in the products, ``[k]``.
            centered: Whether the products are about the means: a bias takes up the rest.
            drifts: Whether to ask how the streams differ.
        """
        count, sums = 0, (torch.zeros(()), torch.zeros(()))
        for parts in zip(exact, rows, strict=True):  # either may be computed as it is read
            count += len(parts[0])
            sums = tuple(total + part.sum(0) for total, part in zip(sums, parts, strict=True))
        mean_exact, mean = (total / count for total in sums)
        size = len(mean)
        if count < ROWS_PER_CHANNEL * size:
            return cls(count, mean_exact, mean)
        center, between = mean * centered, (mean_exact - mean) * centered
        matrix = torch.zeros(size, size, dtype=torch.float64)
        halves = (Drift.none(size), Drift.none(size)) if drifts else ()
        for i, (part, plain) in enumerate(zip(rows, exact, strict=True)):
            root = 1.0 if counts is None else counts[i][:, None].sqrt()
            moved = (part - center) * root
            if not halves:
                matrix += (moved.T @ moved).double()
                continue
            apart = (plain - part - between) * root
            for half, one, other in zip(halves, moved.chunk(2), apart.chunk(2), strict=False):
                half.add(one, other)
        for half in halves:
            matrix += half.hessian
        refuse_non_finite(value, [matrix], "is too great to be squared in float32")
        return cls(count, mean_exact, mean, Hessian(matrix), halves)

    def aim(self, weight: torch.Tensor, share: MakeUp) -> torch.Tensor:
        """What a weight ``[O, n]`` becomes that makes up for a share of the drift."""
        if not self.halves or self.hessian is None:
            return weight
        if share == "held-out":
            share = held_out_share(weight, self.halves, DAMP)
        return weight + share * (weight @ self._making_up.to(weight.dtype))

    @cached_property
    def _making_up(self) -> torch.Tensor:
        assert self.hessian is not None
        cross = self.halves[0].cross + self.halves[1].cross
        return making_up(cross, self.hessian.matrix, DAMP)


def refuse_non_finite(value: Node, parts: Iterable[torch.Tensor], how: str) -> None:
    """Raise, with the name and the line of a value, where a part of it is not finite."""
    if not all(bool(part.isfinite().all()) for part in parts):
        raise InputError(
            f"{value.name} {how} on the calibration data",
            where=value.at,
            do="look for the op that makes such numbers, or give other data",
        )
