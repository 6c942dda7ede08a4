"""What a solver is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from .grid import Grid
from .hessian import Hessian


@dataclass(frozen=True)
class Solution:
    """What stands for a matrix.

    Attributes:
        values: What its codes stand for, ``[O, n]``, each on the grid.
        outliers: What is added to them in floating point, ``[O, n]`` and mostly zeros; ``None`` for
            nothing.
    """

    values: torch.Tensor
    outliers: torch.Tensor | None = None

    @property
    def total(self) -> torch.Tensor:
        """What is multiplied by."""
        return self.values if self.outliers is None else self.values + self.outliers

    def rows(self, which: slice) -> Solution:
        """Of some rows."""
        outliers = None if self.outliers is None else self.outliers[which]
        return Solution(self.values[which], outliers)


class Solver(Protocol):
    """A way to choose codes; solvers are frozen dataclasses of their options."""

    @property
    def learns(self) -> bool:
        """Whether it needs a Hessian."""
        ...

    def solve(self, weight: torch.Tensor, hessian: Hessian, grid: Grid) -> Solution:
        """What stands for a weight ``[O, n]``, on the grid, whatever the Hessian is."""
        ...


def solved(
    solver: Solver, weights: Sequence[torch.Tensor], hessian: Hessian, grids: Sequence[Grid]
) -> list[Solution]:
    """What stands for weights that read the same: one below the other where their grids allow it,
    as what a solver does for each column costs more than what it does for each row."""
    grid = Grid.stacked(grids) if len(grids) > 1 else None
    if grid is None:
        return [
            solver.solve(weight, hessian, own) for weight, own in zip(weights, grids, strict=True)
        ]
    found = solver.solve(torch.cat(list(weights)), hessian, grid)
    ends = list(itertools.accumulate(len(weight) for weight in weights))
    return [found.rows(slice(a, b)) for a, b in zip([0, *ends], ends, strict=False)]
