"""What codes are to stand for, where what a layer reads has errors already (A05, A26, F5).

With the exact inputs x and those at hand x', the weights that give from x' what W gave from x are,
as nearly as a matrix can,

    W (1 + T),   T = D (H + damp mean(diag H) I)^-1,   D = sum_t (x_t - x'_t) x'_t'

and a share c of that, ``W + c W T``, keeps to W what few rows would fit by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .hessian import ROWS


@dataclass(frozen=True)
class Drift:
    """How the inputs at hand differ from the exact ones, over some rows.

    Attributes:
        hessian: ``H = sum_t x'_t x'_t'``, ``[n, n]`` in float64.
        cross: ``D = sum_t (x_t - x'_t) x'_t'``, the same.
    """

    hessian: torch.Tensor
    cross: torch.Tensor

    @classmethod
    def none(cls, size: int) -> Drift:
        """Of no rows."""
        return cls(*torch.zeros(2, size, size, dtype=torch.float64))

    def add(self, rows: torch.Tensor, apart: torch.Tensor) -> None:
        """Count rows x' with what the exact ones have more, each ``[k, n]``."""
        add_products(self.hessian, rows, rows)
        add_products(self.cross, apart, rows)


def add_products(total: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> None:
    """Add ``sum_t x_t y_t'`` of rows x and y, ``[k, n]`` each, to a matrix in float64."""
    product = one.T @ other
    for start in range(0, len(total), ROWS):  # PyTorch makes a copy of what it adds, in float64
        total[start : start + ROWS] += product[start : start + ROWS]


def making_up(drift: torch.Tensor, hessian: torch.Tensor, damp: float) -> torch.Tensor:
    """The matrix T.

    Args:
        drift: D.
        hessian: H, in float64.
        damp: Keeps to W what few rows would fit by chance. At 0, channels of which nothing was seen
            are left alone: the solution of the least norm.
    """
    if damp == 0:
        return drift @ torch.linalg.pinv(hessian, hermitian=True)
    mean = torch.clamp(hessian.diagonal().mean(), min=1e-30)
    damped = hessian.clone()
    damped.diagonal().add_(damp * mean)
    damped = torch.linalg.cholesky(damped)
    return torch.cholesky_solve(drift.T, damped).T


def held_out_share(weight: torch.Tensor, halves: Sequence[Drift], damp: float) -> float:
    """The share c in [0, 1] of what is made up for that is best for rows that T was not made of.

    T of one half of the rows is judged on the other, and the other way round; the error is a
    parabola in c,

        sum_t |W (x_t - x'_t) - c W T x'_t|^2,    c = <W D, W T> / <W T H, W T>

    This coefficient is ours: that of CoreQ (A26), which has the same place, is not published in
    what we could read.
    """
    along = power = 0.0
    for one, other in ((0, 1), (1, 0)):
        moved = weight.double() @ making_up(halves[one].cross, halves[one].hessian, damp)
        along += float(((weight.double() @ halves[other].cross) * moved).sum())
        power += float(((moved @ halves[other].hessian) * moved).sum())
    return min(max(along / power, 0.0), 1.0) if power > 0 else 0.0
