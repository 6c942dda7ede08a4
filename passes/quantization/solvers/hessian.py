"""The Hessian of a layer's objective, and its triangular factor in an order of the columns.

With H = R R', R upper triangular, the objective falls apart into one square for each column,

    tr[E H E'] = sum_j R[j, j]^2 |e_j + sum_{i < j} e_i M[i, j]|^2,    M[i, j] = R[i, j] / R[j, j]

where e_j = w_j - v_j is the error of column j. So once all columns before j are rounded, the best
that v_j can do is to come near to ``w_j + sum_{i < j} e_i M[i, j]``, whatever follows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import torch

from ....ir import InputError
from ....ir.finite import is_finite

Order: TypeAlias = Literal["natural", "descending", "pivot"]
ORDERS: tuple[Order, ...] = get_args(Order)
ROWS = 128  # of a matrix that are converted at once
LEAST_DAMP = 1e-10  # of the mean diagonal: what a singular Hessian gets first


@dataclass(frozen=True)
class Factor:
    """``H = R R'`` in the order in which columns are rounded.

    Attributes:
        order: Of the columns, ``[n]``, those of one unit side by side.
        feedback: ``M'``, ``[n, n]``, lower triangular: row j says how errors before it move the
            target of j. Of units of several columns, block-triangular.
        power: ``R[j, j]^2``, ``[n]``: what a squared error of a column costs, once those before it
            are rounded.
    """

    order: torch.Tensor
    feedback: torch.Tensor
    power: torch.Tensor


@dataclass(eq=False)
class Hessian:
    """``sum_t r_t x_t x_t'`` over what a layer reads; readers of one value share it.

    Args:
        matrix: ``[n, n]``, in float64.

    Raises:
        InputError: It is not finite.
    """

    matrix: torch.Tensor
    raised: float = 0.0  # the damping that a singular matrix needed
    _factors: dict[tuple[str, float, int, torch.dtype], Factor] = field(
        default_factory=dict[tuple[str, float, int, torch.dtype], Factor]
    )

    def __post_init__(self) -> None:
        if not is_finite(self.matrix):
            raise InputError("a Hessian is not finite: what a layer reads overflows, or is NaN")

    @property
    def diagonal(self) -> torch.Tensor:
        return self.matrix.diagonal()

    @property
    def dead(self) -> torch.Tensor:
        """The channels that are zero wherever they were seen, ``bool[n]``. No error there costs
        anything, so they are rounded to the nearest: on other data they may be alive."""
        return self.diagonal <= 0

    @property
    def notes(self) -> list[str]:
        """What was out of the ordinary, for the remarks."""
        count = int(self.dead.sum())
        found = [f"{count} dead channel{'s' * (count > 1)} rounded to the nearest"] if count else []
        return found + ([f"a singular Hessian, damped by {self.raised:.0e}"] if self.raised else [])

    def damped(self, damp: float) -> torch.Tensor:
        """The matrix with a part of its mean diagonal added, and the mean for dead channels."""
        found = self.matrix.clone()
        found.diagonal().add_(self._added(damp))
        return found

    def _added(self, damp: float) -> torch.Tensor:
        mean = self.diagonal.mean()
        mean = torch.where(mean > 0, mean, 1.0)
        return torch.where(self.dead, mean, damp * mean)

    def cost(self, error: torch.Tensor, damp: float = 0.0) -> torch.Tensor:
        """``e H e'`` for each row of errors ``[O, n]``, in float64."""
        wide = error.double()
        return ((wide @ self.damped(damp)) * wide).sum(-1)

    def factor(
        self, order: Order, damp: float, unit: int = 1, dtype: torch.dtype = torch.float64
    ) -> Factor:
        """The factor in an order of the columns.

        Args:
            order: ``natural``: as they come. ``descending``: by the diagonal. ``pivot``: such that
                each column, from the last to the first, is the cheapest of those that are left, by
                what its error costs once they can make up for it (a pivoted Cholesky factor).
            damp: What is added to the diagonal, as a part of its mean; raised where that leaves the
                matrix singular.
            unit: How many neighbouring columns are rounded at once.
            dtype: Of the feedback, which is computed in float64.
        """
        if order not in ORDERS:
            raise InputError(f"columns have no order '{order}'", do=f"one of {', '.join(ORDERS)}")
        key = (order, damp, unit, dtype)
        if key not in self._factors:
            self._factors[key] = self._factored(order, damp, unit, dtype)
        return self._factors[key]

    def _factored(self, order: Order, damp: float, unit: int, dtype: torch.dtype) -> Factor:
        columns = self._columns(order, damp, unit)
        lower, failed = self._root(columns.flip(0), damp)
        while bool(failed) or not is_finite(lower.T):  # it lies in memory like this
            damp = self.raised = max(10 * damp, LEAST_DAMP)
            lower, failed = self._root(columns.flip(0), damp)
        power = lower.diagonal().flip(0).square()
        # R is this flipped both ways; matrices of this size are the most that GPTQ has in memory,
        # so none stays longer than it must.
        if unit == 1:
            lower.div_(lower.diagonal().clone())
            feedback = _flipped(lower.T, dtype)
        else:
            feedback = lower.T.flip(0, 1)
            del lower
            parts = feedback.T.unflatten(1, (-1, unit)).movedim(1, 0)  # [n / unit, n, unit]
            corners = torch.stack([p[i * unit : (i + 1) * unit] for i, p in enumerate(parts)])
            parts = torch.linalg.solve_triangular(corners, parts, upper=True, left=False)
            feedback = parts.movedim(1, 2).flatten(0, 1).to(dtype).contiguous()
        return Factor(columns, feedback, power)

    def _root(self, order: torch.Tensor, damp: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The triangular root of the damped matrix in an order, and whether there is none."""
        # Column by column, as LAPACK takes it without a copy.
        ordered = self.matrix.T[order[:, None], order].T
        ordered.diagonal().add_(self._added(damp)[order])
        failed = torch.zeros((), dtype=torch.int32)
        torch.linalg.cholesky_ex(ordered, out=(ordered, failed))
        return ordered, failed

    def _columns(self, order: Order, damp: float, unit: int) -> torch.Tensor:
        n = len(self.matrix)
        if order == "natural":
            return torch.arange(n)
        if order == "descending":
            columns = torch.argsort(self.diagonal, descending=True, stable=True)
        else:
            columns = _by_pivot(self.damped(damp))
        if unit == 1:
            return columns
        places = torch.empty(n, dtype=torch.float64)
        places[columns] = torch.arange(n, dtype=torch.float64)
        units = torch.argsort(places.unflatten(0, (-1, unit)).mean(1), stable=True)
        return (units[:, None] * unit + torch.arange(unit)).flatten()


def _flipped(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A square matrix from its last row and column to its first, with no more than some rows of it
    in its own dtype at once."""
    n = len(matrix)
    found = torch.empty(n, n, dtype=dtype)
    for start in range(0, n, ROWS):
        stop = min(start + ROWS, n)
        found[start:stop] = matrix[n - stop : n - start].flip(0, 1)
    return found


def _by_pivot(matrix: torch.Tensor) -> torch.Tensor:
    """The columns such that each, from the last on, has the least pivot of those before it."""
    n = len(matrix)
    left = matrix.diagonal().clone()  # the pivots, given the columns that were taken
    factor = torch.zeros(n, n, dtype=matrix.dtype)  # row k: of the k-th column that was taken
    found = torch.empty(n, dtype=torch.int64)
    for k in range(n):
        pivot = int(left.argmin())
        found[n - 1 - k] = pivot
        row = matrix[pivot] - factor[:k, pivot] @ factor[:k]
        factor[k] = row / row[pivot].clamp(min=1e-300).sqrt()
        left -= factor[k].square()
        left[found[n - 1 - k :]] = torch.inf
    return found
