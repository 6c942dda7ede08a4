"""Solvers of an allocation: which choice each unit gets so that the budget holds."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

from ...ir import InputError
from ..options import COUNT, POSITIVE, check_numbers
from .problem import Assignment, Problem


class Solver(abc.ABC):
    """Finds an assignment.

    Attributes:
        measures: Whether a budget of damage is one of measured damage.
    """

    measures: ClassVar[bool] = False

    @abc.abstractmethod
    def solve(self, problem: Problem) -> Assignment:
        """An assignment that keeps to the limit."""


@dataclass(frozen=True)
class Threshold(Solver):
    """A unit is given more as long as what it gains by that is above a threshold, one for all; the
    least threshold with which the budget holds. What is left goes to those that gain most.

    The minimum of ``objective + threshold * constraint`` unit by unit: optimal, but for the rest.
    """

    def solve(self, problem: Problem) -> Assignment:
        objective, constraint = problem.objective, problem.constraint
        low, high = -60.0, 60.0  # powers of e, times the ratio of what the two are about
        scale = _size(objective) / max(_size(constraint), 1e-300)
        best = problem.least
        for _ in range(80):
            middle = (low + high) / 2
            chosen = _least(objective, constraint, scale * float(np.exp(middle)))
            if problem.keeps(chosen):
                best, high = chosen, middle
            else:
                low = middle
        return _filled(problem, best)


@dataclass(frozen=True)
class Greedy(Solver):
    """From the choices that leave most room, one step after another: that which gains most for what
    it takes. Where dependencies between units are known (A71), choices are then changed, alone or
    in twos, as long as the damage of all together falls."""

    def solve(self, problem: Problem) -> Assignment:
        chosen = _filled(problem, problem.least)
        if problem.projections is None or problem.limited == "damage":
            return chosen
        return _exchanged(problem, problem.projections, chosen)


@dataclass(frozen=True)
class DynamicProgramming(Solver):
    """``f_u(b) = min_c f_{u-1}(b - C[u, c]) + D[u, c]`` (F9.2), on a grid of budgets.

    Args:
        steps: Of the grid, over what the limit leaves beyond the least.
    """

    steps: int = 4096

    def __post_init__(self) -> None:
        check_numbers(self, steps=COUNT)

    def solve(self, problem: Problem) -> Assignment:
        base = problem.constraint.min(1, keepdim=True).values
        room = problem.limit - float(base.sum())
        if room <= 0:
            return problem.least
        grain = room / self.steps
        taken = torch.ceil((problem.constraint - base) / grain * (1 - 1e-12))
        taken = torch.where(taken <= self.steps, taken, self.steps + 1).long()
        value = torch.zeros(self.steps + 1, dtype=torch.float64)
        picked: list[torch.Tensor] = []
        for row, steps in zip(problem.objective, taken.tolist(), strict=True):
            options = torch.full((len(steps), self.steps + 1), torch.inf, dtype=torch.float64)
            for index, step in enumerate(steps):
                if step <= self.steps and bool(row[index].isfinite()):
                    options[index, step:] = value[: self.steps + 1 - step] + row[index]
            value, choice = options.min(0)
            picked.append(choice)
        left, chosen = self.steps, list[int]()
        for choice, steps in zip(reversed(picked), reversed(taken.tolist()), strict=True):
            chosen.append(int(choice[left]))
            left -= steps[chosen[-1]]
        return _filled(problem, chosen[::-1])


@dataclass(frozen=True)
class IntegerProgramming(Solver):
    """The optimum, by branch and bound (HiGHS).

    Args:
        seconds: After so many the best so far is taken.
    """

    seconds: float = 60.0

    def __post_init__(self) -> None:
        check_numbers(self, seconds=POSITIVE)

    def solve(self, problem: Problem) -> Assignment:
        objective, constraint = problem.objective, problem.constraint
        rows, columns = torch.nonzero(objective.isfinite() & constraint.isfinite(), as_tuple=True)
        price = objective[rows, columns].numpy()
        weight = constraint[rows, columns].numpy()
        most = max(float(np.abs(price).max()), 1e-300)
        bound = max(problem.limit, 1e-300)
        one = csr_matrix((np.ones(len(rows)), (rows.numpy(), np.arange(len(rows)))))
        found: Any = milp(
            price / most,
            integrality=np.ones(len(rows)),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one, 1, 1),
                LinearConstraint(csr_matrix(weight[None] / bound), -np.inf, 1),
            ],
            options={"time_limit": self.seconds, "mip_rel_gap": 1e-6},
        )
        if found.x is None:
            return Threshold().solve(problem)
        chosen = [0] * len(objective)
        for row, column, taken in zip(rows.tolist(), columns.tolist(), found.x, strict=True):
            if taken > 0.5:
                chosen[row] = column
        # The library's tolerance may leave it over the limit by a hair.
        return chosen if problem.keeps(chosen) else Threshold().solve(problem)


@dataclass(frozen=True)
class Bisection(Solver):
    """As many units as can be in each cheaper choice, of a list in the order of the damage that
    they then add, such that the damage of the whole, measured, keeps to the limit (A71).

    One run of the model a step, about ``log2`` of the number of units for each choice. Where
    dependencies are known, the list counts each unit's damage with that of those before it.
    """

    measures: ClassVar[bool] = True

    def solve(self, problem: Problem) -> Assignment:
        measure = problem.measure
        if measure is None or problem.limited != "damage":
            raise InputError(
                "Bisection lowers units until a measured damage is reached, and the budget is none",
                do="give Budget(..., 'damage'), or another solver",
            )
        levels = torch.argsort(problem.cost, dim=1, descending=True, stable=True)
        levels = [
            [c for c in row if bool(cost[c].isfinite())]
            for row, cost in zip(levels.tolist(), problem.cost, strict=True)
        ]
        chosen = [row[0] for row in levels]
        if (least := measure(chosen)) > problem.limit:
            raise InputError(
                f"a budget of {problem.limit:.4g} of damage cannot be met: "
                f"the least possible, with the most that can be chosen, is {least:.4g}",
                do="raise the budget, or offer other choices",
            )
        for depth in range(1, max(map(len, levels))):
            order = [
                (unit, row[depth])
                for unit, row in enumerate(levels)
                if len(row) > depth and chosen[unit] == row[depth - 1]
            ]
            order = _ordered(problem, chosen, order)
            low, high = 0, len(order)  # so many keep to the limit; above so many, none will
            while low < high:
                middle = (low + high + 1) // 2
                tried = _with(chosen, order[:middle])
                if measure(tried) <= problem.limit:
                    low = middle
                else:
                    high = middle - 1
            chosen = _with(chosen, order[:low])
        return chosen


def _with(chosen: Assignment, changes: list[tuple[int, int]]) -> Assignment:
    new = list(chosen)
    for unit, choice in changes:
        new[unit] = choice
    return new


def _ordered(
    problem: Problem, chosen: Assignment, changes: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Changes in the order of the damage that each adds, by what of the cost it saves."""
    left, order, state = list(changes), list[tuple[int, int]](), list(chosen)
    while left:
        added = _changed(problem, state)
        first = min(
            left,
            key=lambda change: float(added[change]) / max(_saved(problem, state, change), 1e-300),
        )
        left.remove(first)
        order.append(first)
        state[first[0]] = first[1]
        if problem.projections is None:  # what is added does not depend on what was
            rest = [(float(added[c]) / max(_saved(problem, chosen, c), 1e-300), c) for c in left]
            return order + [change for _, change in sorted(rest, key=lambda pair: pair[0])]
    return order


def _saved(problem: Problem, chosen: Assignment, change: tuple[int, int]) -> float:
    unit, choice = change
    return float(problem.cost[unit, chosen[unit]] - problem.cost[unit, choice])


def _changed(problem: Problem, chosen: Assignment) -> torch.Tensor:
    """``[U, C]``: by how much the damage rises if one unit changes its choice."""
    index, now = torch.arange(len(chosen)), torch.tensor(chosen)
    if problem.projections is None:
        return problem.damage - problem.damage[index, now][:, None]
    own = problem.projections[index, now]
    rest = own.sum(0) - own  # [U, K], of all others
    moved = (rest[:, None] + problem.projections).square().sum(-1)
    moved = torch.where(problem.damage.isfinite(), moved, torch.inf)
    return moved - own.sum(0).square().sum()


def _filled(problem: Problem, chosen: Assignment) -> Assignment:
    """An assignment with what the limit leaves spent on the changes that gain most for it."""
    chosen = list(chosen)
    used = problem.total(problem.constraint, chosen)
    while True:
        index, now = torch.arange(len(chosen)), torch.tensor(chosen)
        taken = problem.constraint - problem.constraint[index, now][:, None]
        gained = problem.objective[index, now][:, None] - problem.objective
        allowed = (used + taken <= problem.limit * (1 + 1e-12)) & (gained > 0)
        if not bool(allowed.any()):
            return chosen
        rate = torch.where(allowed, gained / taken.clamp(min=1e-300), -torch.inf)
        unit, choice = divmod(int(rate.argmax()), rate.shape[1])
        used += float(taken[unit, choice])
        chosen[unit] = choice


def _exchanged(problem: Problem, projections: torch.Tensor, chosen: Assignment) -> Assignment:
    """An assignment at which no change of one or two choices lowers ``|sum_u P[u, c_u]|^2``."""
    chosen = list(chosen)
    index = torch.arange(len(chosen))
    units = index.repeat_interleave(problem.damage.shape[1])
    while True:
        now = torch.tensor(chosen)
        moves = (projections - projections[index, now][:, None]).flatten(0, 1)  # [U C, K]
        taken = (problem.cost - problem.cost[index, now][:, None]).flatten()
        total = projections[index, now].sum(0)
        alone = 2 * moves @ total + moves.square().sum(1)
        alone = torch.where(taken.isfinite(), alone, torch.inf)
        both = alone[:, None] + alone + 2 * moves @ moves.T  # a move to where one is is none
        both[units[:, None] == units] = torch.inf
        left = problem.limit * (1 + 1e-12) - problem.total(problem.cost, chosen)
        both = torch.where(taken[:, None] + taken <= left, both, torch.inf)
        first, second = divmod(int(both.argmin()), len(units))
        # Less is rounding, which would never end.
        if not float(both[first, second]) < -1e-9 * float(total.square().sum()):
            return chosen
        for move in (first, second):
            chosen[int(units[move])] = move % problem.damage.shape[1]


def _least(objective: torch.Tensor, constraint: torch.Tensor, factor: float) -> Assignment:
    return (objective + factor * constraint).argmin(1).tolist()


def _size(table: torch.Tensor) -> float:
    finite = table[table.isfinite()].abs()
    return float(finite.mean()) if finite.numel() else 0.0
