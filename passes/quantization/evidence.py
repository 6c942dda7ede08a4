"""What rounding knows of a value that contractions read: from the exact stream and from the one
behind the quantized prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import torch

from ...ir import Node
from ..calibration import refuse_non_finite
from .solvers import Drift, Hessian, add_products, held_out_share, making_up

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
        drifts: How the streams differ, over each of as many parts of the rows as were asked for.
    """

    count: int
    mean_exact: torch.Tensor
    mean: torch.Tensor
    hessian: Hessian | None = None
    drifts: tuple[Drift, ...] = ()

    @classmethod
    def of(
        cls,
        value: Node,
        exact: Sequence[torch.Tensor],
        rows: Sequence[torch.Tensor],
        *,
        counts: Sequence[torch.Tensor] | None = None,
        centered: bool = False,
        drifts: int = 0,
        enough: float = ROWS_PER_CHANNEL,
    ) -> Evidence:
        """What is in the rows of a value, one tensor a batch.

        Args:
            exact: The same rows of the exact stream.
            counts: What each row counts in the products, ``[k]``.
            centered: Whether the products are about the means: a bias takes up the rest.
            drifts: Over how many parts of each batch's rows to ask how the streams differ.
            enough: Rows for each channel, below which there are no products.
        """
        count, sums = 0, (torch.zeros(()), torch.zeros(()))
        for parts in zip(exact, rows, strict=True):  # either may be computed as it is read
            count += len(parts[0])
            sums = tuple(total + part.sum(0) for total, part in zip(sums, parts, strict=True))
        mean_exact, mean = (total / count for total in sums)
        size = len(mean)
        if count < enough * size:
            return cls(count, mean_exact, mean)
        center, between = mean * centered, (mean_exact - mean) * centered
        found = tuple(Drift.none(size) for _ in range(drifts))
        matrix = found[0].hessian if found else torch.zeros(size, size, dtype=torch.float64)
        for i, (part, plain) in enumerate(zip(rows, exact, strict=True)):
            root = 1.0 if counts is None else counts[i][:, None].sqrt()
            moved = (part - center) * root
            if not found:
                add_products(matrix, moved, moved)
                continue
            apart = (plain - part - between) * root
            cut = zip(found, moved.chunk(drifts), apart.chunk(drifts), strict=False)
            for drift, some, rest in cut:
                drift.add(some, rest)
        matrix = sum((drift.hessian for drift in found[1:]), matrix)
        refuse_non_finite(value, matrix, "is too great to be squared in float32")
        return cls(count, mean_exact, mean, Hessian(matrix), found)

    def aim(self, weight: torch.Tensor, share: MakeUp) -> torch.Tensor:
        """What a weight ``[O, n]`` becomes that makes up for a share of the drift."""
        if not self.drifts or self.hessian is None:
            return weight
        if share == "held-out":
            share = held_out_share(weight, self.drifts, DAMP)
        return weight + share * (weight @ self._making_up.to(weight.dtype))

    @cached_property
    def _making_up(self) -> torch.Tensor:
        assert self.hessian is not None
        cross = sum((drift.cross for drift in self.drifts[1:]), self.drifts[0].cross)
        return making_up(cross, self.hessian.matrix, DAMP)
