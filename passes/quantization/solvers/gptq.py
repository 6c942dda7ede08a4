"""GPTQ: round greedily, and let the columns that are still free take up the error (A07).

    target_j = w_j + sum_{i < j} (w_i - v_i) M[i, j],    v_j = nearest(target_j)

M is the triangular factor of the Hessian (``hessian``). That is what the usual form computes with
the Cholesky factor of the inverse, ``w_j -= error U[i, j] / U[i, i]``, and it is Babai's nearest
plane in the lattice of the codes whose basis is R: the objective is at most a quarter of
``sum_j R[j, j]^2 step_j^2`` where nothing is clipped, whence the orders. Where zero is all that a
place may hold (``Grid.holding``), it is the nearest, and later columns take up its error as any
other: the joint form of SparseGPT. Source: F6.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...options import AMOUNT, COUNT, check_known, check_numbers
from .grid import Grid
from .hessian import ORDERS, Hessian, Order
from .problem import Solution

BLOCK = 128  # columns whose errors are carried to the rest at once; it changes the time alone


@dataclass(frozen=True)
class GPTQ:
    """Column by column; of vector formats, one vector after another.

    Args:
        order: Of the columns, see ``Hessian.factor``.
        damp: What is added to the diagonal of the Hessian, as a part of its mean; where not given,
            the grid's.
    """

    order: Order = "descending"
    damp: float | None = None
    block: int = BLOCK

    def __post_init__(self) -> None:
        check_known([self.order], ORDERS, "order of columns")
        check_numbers(self, damp=AMOUNT | None, block=COUNT)

    @property
    def learns(self) -> bool:
        return True

    def solve(self, weight: torch.Tensor, hessian: Hessian, grid: Grid) -> Solution:
        unit = grid.unit
        damp = grid.damp if self.damp is None else self.damp
        factor = hessian.factor(self.order, damp, unit, weight.dtype)
        feedback = factor.feedback
        source = weight.T[factor.order]  # [n, O], in order
        exact = None if grid.held is None else weight
        del weight
        target, chosen = source.clone(), torch.zeros_like(source)  # chosen: as columns come
        size, n = max(unit, self.block // unit * unit), len(source)
        columns = factor.order.tolist()
        for start in range(0, n, size):
            stop = min(start + size, n)
            errors = torch.empty_like(source[start:stop])
            for i in range(start, stop, unit):
                done, place = i - start, columns[i]
                wanted = target[i : i + unit]
                if done:
                    wanted = torch.addmm(wanted, feedback[i : i + unit, start:i], errors[:done])
                values = grid.round(place // unit, wanted, chosen)
                chosen[place : place + unit] = values
                torch.sub(source[i : i + unit], values, out=errors[done : done + unit])
            target[stop:].addmm_(feedback[stop:, start:stop], errors)
        del source, target
        found = chosen.T.contiguous()
        return Solution(found if exact is None else _no_worse(found, exact, hessian, grid, damp))


def _no_worse(
    found: torch.Tensor, weight: torch.Tensor, hessian: Hessian, grid: Grid, damp: float
) -> torch.Tensor:
    """Rows rounded to the nearest where that is better: what columns before hand on to a zero is
    lost there, and no order of the columns lets the zeros of all rows come first."""
    near = grid.nearest(weight)
    better = hessian.cost(near - weight, damp) < hessian.cost(found - weight, damp)
    return torch.where(better[:, None], near, found)
