"""Cyclic coordinate descent on what a matrix computes (QuantEase, A94).

    v_j = nearest(w_j + sum_{k != j} (w_k - v_k) H[k, j] / H[j, j])    for one column after another

No step makes the objective greater. Every third sweep but the last ones leaves what it finds
unrounded, which lets the next leave a poor minimum. With outliers, ``W ~ V + S``: after each sweep
S takes a step down the gradient, of which the greatest numbers are kept (iterative hard
thresholding). Source: F6.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from ...options import AMOUNT, COUNT, PART, SOME, check_kinds, check_known, check_numbers
from .gptq import GPTQ
from .grid import Grid
from .hessian import Hessian, Order
from .plain import Nearest
from .problem import Solution, Solver

POWER_STEPS = 30  # of the power iteration for the greatest eigenvalue


@dataclass(frozen=True)
class CoordinateDescent:
    """Sweeps over the columns; never worse than what it starts with.

    Vector formats, whose columns are not rounded one by one, keep what it starts with.

    Args:
        sweeps: How many.
        start: The solver whose result is improved on; ``None``: the weights themselves, as the
            authors have it, which is no start to fall back to.
        relax: Whether every third sweep leaves columns unrounded.
        outliers: The part of the weights that also have a number in floating point.
        columns: Whether outliers are whole columns.
        damp: As of ``GPTQ``.
        order: Of the columns: ``natural`` or ``descending``.
    """

    sweeps: int = 12
    start: Solver | None = field(default_factory=GPTQ)
    relax: bool = True
    outliers: float = 0.0
    columns: bool = False
    damp: float | None = None
    order: Order = "descending"
    block: int = 128

    def __post_init__(self) -> None:
        check_known([self.order], ("natural", "descending"), "order of columns")
        check_numbers(self, sweeps=SOME, outliers=PART, damp=AMOUNT | None, block=COUNT)
        check_kinds(self, relax=bool, columns=bool)

    @property
    def learns(self) -> bool:
        return True

    def solve(self, weight: torch.Tensor, hessian: Hessian, grid: Grid) -> Solution:
        if grid.unit > 1:
            return (self.start or Nearest()).solve(weight, hessian, grid)
        damp = grid.damp if self.damp is None else self.damp
        begun = None if self.start is None else self.start.solve(weight, hessian, grid)
        best = Solution(grid.nearest(weight)) if begun is None else begun
        least = hessian.cost(best.total - weight, damp)
        run = _Descent(self, weight, hessian, grid, damp, None if begun is None else begun.values)
        for sweep in range(self.sweeps):
            relaxed = self.relax and sweep % 3 == 1 and sweep < self.sweeps - 4
            run.sweep(rounds=not relaxed)
            if self.outliers:
                run.threshold()
            if relaxed:
                continue
            found = Solution(run.values.T, run.outliers.T if self.outliers else None)
            cost = hessian.cost(found.total - weight, damp)
            better = (cost < least)[:, None]
            least = torch.minimum(cost, least)
            best = _rows(better, found, best)
        return Solution(best.values.contiguous(), best.outliers)


def _rows(first: torch.Tensor, one: Solution, other: Solution) -> Solution:
    """Rows of the one, and rows of the other."""
    values = torch.where(first, one.values, other.values)
    if one.outliers is None:
        return Solution(values)
    rest = torch.zeros_like(values) if other.outliers is None else other.outliers
    return Solution(values, torch.where(first, one.outliers, rest))


class _Descent:
    """V and S as they are, and the gradient; all ``[n, O]``."""

    def __init__(
        self,
        options: CoordinateDescent,
        weight: torch.Tensor,
        hessian: Hessian,
        grid: Grid,
        damp: float,
        start: torch.Tensor | None,
    ) -> None:
        self.options, self.grid = options, grid
        self.target = weight.T.contiguous()
        damped = hessian.damped(damp)
        self.matrix = damped.to(weight.dtype)
        self.power = damped.diagonal().to(weight.dtype).tolist()
        n = len(damped)
        by_size = torch.argsort(hessian.diagonal, descending=True, stable=True)
        self.order = by_size if options.order == "descending" else torch.arange(n)
        self.values = start.T.contiguous() if start is not None else self.target.clone()
        if start is None and grid.held is not None:
            self.values.masked_fill_(grid.held, 0)
        self.outliers = torch.zeros_like(self.target)
        self.rate = 0.0
        if options.outliers:
            self.rate = 1 / (2 * _greatest_eigenvalue(damped))

    def gradient(self) -> torch.Tensor:
        """``H (w - v - s)``, half of what the objective falls by, ``[n, O]``."""
        return self.matrix @ (self.target - self.values - self.outliers)

    def sweep(self, *, rounds: bool) -> None:
        """Every column once."""
        down, size = self.gradient(), self.options.block
        for start in range(0, len(self.order), size):
            block = self.order[start : start + size]
            rows = down[block]
            within = self.matrix[block][:, block]
            steps = torch.empty_like(rows)
            for i, place in enumerate(block.tolist()):
                wanted = rows[i]
                if i:
                    wanted = torch.addmv(wanted, steps[:i].T, within[i, :i], alpha=-1)
                old = self.values[place]
                new = torch.add(old, wanted, alpha=1 / self.power[place])
                if rounds:
                    new = self.grid.round(place, new[None], self.values)[0]
                else:
                    new = self.grid.hold(place, new)
                torch.sub(new, old, out=steps[i])
                self.values[place] = new
            down.addmm_(self.matrix[:, block], steps, alpha=-1)

    def threshold(self) -> None:
        """A step of S, of which the greatest numbers, or columns, are kept."""
        moved = self.outliers + self.gradient() * (2 * self.rate)
        if self.grid.held is not None:
            moved = moved.masked_fill(self.grid.held, 0)
        size = moved.square()
        if self.options.columns:
            size = size.sum(1, keepdim=True)
        count = math.floor(self.options.outliers * size.numel())
        kept = torch.zeros_like(size, dtype=torch.bool)
        kept.view(-1)[size.flatten().topk(count).indices] = True
        self.outliers = torch.where(kept, moved, 0)


def _greatest_eigenvalue(matrix: torch.Tensor) -> float:
    """By power iteration."""
    vector = matrix.diagonal() + matrix.diagonal().mean()
    for _ in range(POWER_STEPS):
        vector = matrix @ (vector / vector.norm())
    return float(vector.norm())
