"""What a solver is."""

from __future__ import annotations

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


class Solver(Protocol):
    """A way to choose codes; solvers are frozen dataclasses of their options."""

    @property
    def learns(self) -> bool:
        """Whether it needs a Hessian."""
        ...

    def solve(self, weight: torch.Tensor, hessian: Hessian, grid: Grid) -> Solution:
        """What stands for a weight ``[O, n]``, on the grid, whatever the Hessian is."""
        ...
