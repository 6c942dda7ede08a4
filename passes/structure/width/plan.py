"""Which units of groups stay: of each group a part, or as many as a budget of the whole allows."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import torch

from ....ir import InputError
from ...budget import Problem, Solver
from ...options import nearest
from ..costs import Costs
from ..groups import Group
from ..options import at_most

Measure: TypeAlias = Literal["units", "parameters", "macs", "latency"]
# The time of the whole with so many units of each group, by the groups' names.
Latency: TypeAlias = Callable[[Mapping[str, int]], float]

CHOICES = 32  # of how many units stay, for a solver
TRIES = 40  # of a bisection


@dataclass
class Plan:
    """Which units stay.

    Args:
        groups: That may lose units.
        scores: Of each group, what its units are worth.
        costs: Of the graph with some units of the groups.
        remove, of, solver, multiple, latency: As ``Prune`` has them.
    """

    groups: Sequence[Group]
    scores: Sequence[torch.Tensor]
    costs: Costs
    remove: float
    of: Measure
    solver: Solver | None
    multiple: int
    latency: Latency | None

    def __post_init__(self) -> None:
        self.order = [torch.argsort(s, descending=True, stable=True) for s in self.scores]
        self.lost = [
            torch.cat([torch.zeros(1, dtype=torch.float64), score.sort().values.cumsum(0)])
            for score in self.scores
        ]  # by how many units go
        self.legal = [self._legal(group) for group in self.groups]

    def best(self) -> list[torch.Tensor]:
        """The units of each group that stay.

        Raises:
            InputError: Nothing of a group would stay, or the budget cannot be met.
        """
        if self.of == "units":
            self._need_some()
            return self.kept(self._even(self.remove))
        whole = self.price([group.count for group in self.groups])
        budget, least = (1 - self.remove) * whole, [legal[0] for legal in self.legal]
        if (floor := self.price(least)) > budget * (1 + 1e-9):
            raise self._beyond(least, 1 - floor / whole)
        if self.solver is None:
            even = self._bisect(self._even, budget, least)
            return self.kept(self._spent(even, budget, self._part_left))
        solved = self._bisect(self._solved, budget, least)
        return self.kept(self._spent(solved, budget, self._gain))

    def kept(self, counts: Sequence[int]) -> list[torch.Tensor]:
        """The units that are worth most, so many of each group."""
        found: list[torch.Tensor] = []
        for order, count in zip(self.order, counts, strict=True):
            stays = torch.zeros(len(order), dtype=torch.bool)
            stays[order[:count]] = True
            found.append(stays)
        return found

    def price(self, counts: Sequence[int]) -> float:
        """What is limited, with so many units of each group."""
        match self.of:
            case "latency":
                assert self.latency is not None
                names = {g.name: n for g, n in zip(self.groups, counts, strict=True)}
                return self.latency(names)
            case "macs":
                return float(self.costs.macs(self.kept(counts)))
            case _:
                return float(self.costs.parameters(self.kept(counts)))

    def latencies(self, kept: Sequence[torch.Tensor]) -> tuple[float, float] | None:
        """The time before and after, where that is limited."""
        if self.of != "latency":
            return None
        counts = [int(stays.sum()) for stays in kept]
        return self.price([group.count for group in self.groups]), self.price(counts)

    # -- what is said ---------------------------------------------------------------------------

    def why(self, row: int, count: int) -> str:
        """Why so many units of a group stay: all, or others than were asked for; empty otherwise.

        Follows the number of those that do.
        """
        group, legal = self.groups[row], self.legal[row]
        wanted, found = (1 - self.remove) * group.total, count * group.step
        if len(legal) == 1:
            return f": no multiple of {math.lcm(group.step, self.multiple)} is below {group.total}"
        if self.of != "units":
            return ": the budget is met without them" if count == group.count else ""
        if count < group.count and abs(found - wanted) <= 0.5 + 1e-9:
            return ""
        text = f"{nearest(wanted, [n * group.step for n in legal])} are legal"
        text += f" with multiple={self.multiple}" if self.multiple > 1 else ""
        text += f"; {group.together}" if group.together else ""
        return f", the nearest to {wanted:.4g}: {text}"

    def help(self, row: int) -> str:
        """What lets a group lose some units where it keeps all."""
        group, (*fewer, _) = self.groups[row], self.legal[row]
        if not fewer:
            return "ask for a lesser multiple"
        part = at_most(1 - fewer[-1] / group.count)
        text = f"remove={part} leaves {fewer[-1] * group.step} of the {group.what} of "
        return f"{text}{group.value.name}" if self.of == "units" else ""

    def _need_some(self) -> None:
        """Raise where nothing is nearer to what was asked of a group than its least number."""
        choices = [(g, legal[0]) for g, legal in zip(self.groups, self.legal, strict=True)
                   if len(legal) > 1]  # fmt: skip
        for group, least in choices:
            if (1 - self.remove) * group.count < least / 2:
                greatest = at_most(min(1 - few / one.count for one, few in choices))
                raise InputError(
                    f"remove={self.remove} leaves none of the {group.total} {group.what} of "
                    f"{group.value.name}, where {least * group.step} must stay",
                    where=group.value.at,
                    do=f"remove={greatest}, at most{self._lesser}, or protect {group.value.name}",
                )

    def _beyond(self, least: Sequence[int], part: float) -> InputError:
        """The error that says what can be removed, and what is left then."""
        some = [
            f"{count * group.step} of {group.total} {group.what} of {group.value.name}"
            for group, count in zip(self.groups, least, strict=True)
        ]
        more = f" and so on, of {len(some)} groups" if len(some) > 3 else ""
        return InputError(
            f"{100 * self.remove:.3g} % of the {self.of} cannot be removed: with as little left "
            f"of each group as may be, {100 * part:.3g} % are ({', '.join(some[:3])}{more})",
            do=f"remove={at_most(part)}, at most{self._lesser}, or let other roles lose units",
        )

    @property
    def _lesser(self) -> str:
        return ", a lesser multiple" if self.multiple > 1 else ""

    # -- how many -------------------------------------------------------------------------------

    def _even(self, part: float) -> list[int]:
        """The same part of each group, as near as its legal numbers come."""
        found: list[int] = []
        for group, legal in zip(self.groups, self.legal, strict=True):
            wanted = (1 - part) * group.count
            found.append(min(legal, key=lambda count: (abs(count - wanted), count)))
        return found

    def _bisect(
        self, counts: Callable[[float], list[int]], budget: float, least: list[int]
    ) -> list[int]:
        """The least part removed with which the budget holds."""
        low, high, best = 0.0, 1.0, least
        for _ in range(TRIES):
            middle = (low + high) / 2
            tried = counts(middle)
            if self.price(tried) <= budget * (1 + 1e-9):
                best, high = tried, middle
            else:
                low = middle
            if high - low < 1e-4:
                break
        return best

    def _spent(
        self, counts: list[int], budget: float, urgent: Callable[[int, int, int], float]
    ) -> list[int]:
        """A choice with what the budget leaves spent, on the most urgent groups first.

        Args:
            urgent: Of a group, how many of its units stay, and how many may next.
        """
        counts, rising = list(counts), dict[int, int]()

        def rise(row: int) -> None:
            place = bisect.bisect_right(self.legal[row], counts[row])
            rising.pop(row, None)
            if place < len(self.legal[row]):
                rising[row] = self.legal[row][place]

        for row in range(len(counts)):
            rise(row)
        while rising:
            row = max(rising, key=lambda row: (urgent(row, counts[row], rising[row]), -row))
            tried = [*counts[:row], rising[row], *counts[row + 1 :]]
            if self.price(tried) > budget * (1 + 1e-9):
                del rising[row]
            else:
                counts = tried
                rise(row)
        return counts

    def _part_left(self, row: int, count: int, more: int) -> float:
        """Greatest of the group that lost most."""
        return -count / self.groups[row].count

    def _gain(self, row: int, count: int, more: int) -> float:
        """How much less is lost with more units, for what they cost in the group alone."""
        whole, least, most = self.groups[row].count, self.legal[row][0], self.legal[row][-1]
        saved = float(self.lost[row][whole - count] - self.lost[row][whole - more])
        costs = self._problem.cost[row]
        span = float(costs[len(self._options[row]) - 1] - costs[0])
        return saved / max(span * (more - count) / (most - least), 1e-300)

    def _solved(self, part: float) -> list[int]:
        """The counts of least damage where each group's cost is as if the others stayed whole."""
        assert self.solver is not None
        problem = self._problem
        least = float(problem.cost.min(1).values.sum())
        most = float(problem.cost.where(problem.cost.isfinite(), -torch.inf).max(1).values.sum())
        limit = most - part * (most - least)
        bounded = Problem(problem.names, problem.damage, problem.cost, limit)
        chosen = self.solver.solve(bounded)
        return [self._options[row][column] for row, column in enumerate(chosen)]

    @cached_property
    def _options(self) -> list[list[int]]:
        """Of each group, the numbers of units that a solver chooses from."""
        return [_spaced(legal, CHOICES) for legal in self.legal]

    @cached_property
    def _problem(self) -> Problem:
        whole = [group.count for group in self.groups]
        full = self.price(whole)
        columns = max(map(len, self._options))
        damage = torch.full((len(whole), columns), torch.inf, dtype=torch.float64)
        cost = damage.clone()
        for row, options in enumerate(self._options):
            for column, count in enumerate(options):
                counts = [*whole[:row], count, *whole[row + 1 :]]
                damage[row, column] = self.lost[row][whole[row] - count]
                cost[row, column] = self.price(counts) - full + full / len(whole)
        names = tuple(group.name for group in self.groups)
        return Problem(names, damage, cost, full)

    def _legal(self, group: Group) -> list[int]:
        """The numbers of units that may stay, from the least; all may."""
        multiple = 1 if group.role == "heads" else self.multiple
        fits = [n for n in range(1, group.count) if n * group.size % multiple == 0]
        return [*fits, group.count]


def _spaced(numbers: Collection[int], most: int) -> list[int]:
    """At most so many of some numbers, evenly, the first and the last among them."""
    some = list(numbers)
    places = torch.linspace(0, len(some) - 1, min(most, len(some))).round().long()
    return [some[place] for place in places.tolist()]
