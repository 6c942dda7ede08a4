"""The problem that an allocation solves: one choice for each unit, the damage of each and its cost.

    min sum_u D[u, c_u]  such that  sum_u C[u, c_u] <= limit        or the other way round

Where the errors of units add up or cancel in the outputs, damage is
``sum_k (sum_u P[u, c_u, k])^2`` over projections P of the errors on random directions, whose
squares alone are D (A71).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

import torch

from ...ir import InputError

Assignment: TypeAlias = list[int]  # of each unit, the number of its choice


@dataclass(frozen=True)
class Problem:
    """What a solver is given.

    Args:
        names: Of the units.
        damage: ``float64[U, C]``; infinite where a unit does not have a choice.
        cost: ``float64[U, C]``, likewise.
        limit: What must not be exceeded.
        limited: Of which of the two; the other is to be least.
        unit: What a cost of 1 is, for messages, and by what sums are divided to be told.
        projections: ``[U, C, K]``, where dependencies between units are known.
        measure: The damage of a whole assignment, run.
        why: What keeps the cost from being less, for messages.
    """

    names: tuple[str, ...]
    damage: torch.Tensor
    cost: torch.Tensor
    limit: float
    limited: Literal["cost", "damage"] = "cost"
    unit: tuple[str, float] = ("", 1.0)
    projections: torch.Tensor | None = None
    measure: Callable[[Assignment], float] | None = None
    why: str = ""

    @cached_property
    def objective(self) -> torch.Tensor:
        return self.damage if self.limited == "cost" else self.cost

    @cached_property
    def constraint(self) -> torch.Tensor:
        return self.cost if self.limited == "cost" else self.damage

    def total(self, table: torch.Tensor, chosen: Sequence[int]) -> float:
        """The sum of a table over the units."""
        return float(table[torch.arange(len(chosen)), torch.tensor(chosen)].sum())

    def predicted(self, chosen: Sequence[int]) -> float:
        """The damage of an assignment, with dependencies where they are known."""
        if self.projections is None:
            return self.total(self.damage, chosen)
        picked = self.projections[torch.arange(len(chosen)), torch.tensor(chosen)]
        return float(picked.sum(0).square().sum())

    @cached_property
    def least(self) -> Assignment:
        """The choices with which most room is left under the limit."""
        return self.constraint.argmin(1).tolist()

    @property
    def cheapest_first(self) -> list[int]:
        """The choices by what they cost, as a share of the most that a unit can cost."""
        known = self.cost.isfinite()
        cost = torch.where(known, self.cost, 0)
        share = cost / cost.amax(1, keepdim=True).clamp(min=1e-300)
        return torch.argsort(share.sum(0) / known.sum(0).clamp(min=1), stable=True).tolist()

    def without(self, choice: int) -> Problem:
        """The same where no unit that has another choice has this one."""
        others = (self.damage.isfinite() & self.cost.isfinite()).sum(1) > 1
        damage, cost = self.damage.clone(), self.cost.clone()
        damage[others, choice] = cost[others, choice] = torch.inf
        return replace(self, damage=damage, cost=cost)

    def check(self) -> None:
        """Raise ``InputError`` where no assignment keeps to the limit."""
        least = self.total(self.constraint, self.least)
        if least <= self.limit * (1 + 1e-9):
            return
        name, size = self.unit if self.limited == "cost" else ("", 1.0)
        raise InputError(
            f"a budget of {self.limit / size:.4g}{name or ' of damage'} cannot be met: "
            f"the least possible is {least / size:.4g}" + (self.why and f": {self.why}"),
            do="raise the budget, or offer other choices",
        )

    def keeps(self, chosen: Sequence[int]) -> bool:
        """Whether an assignment keeps to the limit."""
        return self.total(self.constraint, chosen) <= self.limit * (1 + 1e-9)
