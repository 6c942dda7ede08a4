"""Make a network narrower: leave out the channels, neurons and heads that are worth least.

    groups (what can go)  ->  score (what each unit is worth)  ->  how many of each group stay,
    under a budget  ->  the readers of what stays make up for the rest  ->  a smaller graph

What can go is derived from the graph (``groups``); nothing is masked in the end, all parameters and
values are truly smaller. With a score, a budget and a solver this is structured pruning by
magnitude, by Taylor expansion (A74, A70), or by what layers lose once they make up for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

import torch

from ....ir import Graph, InputError
from ....ir.gauge import Region, drop, transport
from ....ir.laws import Kind
from ...allocation.problem import Problem
from ...allocation.solvers import Solver
from ...base import Context, Promise, Remark, Stage, applied, blocked, decided, missed
from ...sites import Asked, SitePass
from ...ties import tie_in_the_way
from ..costs import Costs
from ..groups import ROLES, Group, Role, groups
from ..options import check_known, check_part, lessened, named
from .importance import SCORES, Importance
from .masking import Masked

Measure: TypeAlias = Literal["units", "parameters", "macs", "latency"]
# The time of the whole with so many units of each group, by the groups' names.
Latency: TypeAlias = Callable[[Mapping[str, int]], float]

CHOICES = 32  # of how many units stay, for a solver
TRIES = 40  # of a bisection


@dataclass(frozen=True)
class Prune(SitePass):
    """Leave out channels.

    Args:
        remove: The part that is to go, between 0 and 1, of:
        of: ``units``: of each group; ``parameters``, or ``macs``: of all of the graph's;
            ``latency``: of the time that ``latency`` says.
        roles: Which groups may lose units (``groups``).
        score: What a unit is worth (``importance``), or the name of a score with its defaults.
        solver: How many units each group keeps, by the scores, for least damage under the budget;
            the same part of each group where there is none.
        multiple: Of how many channels what stays of a group is to be a multiple, as kernels need.
        recover: Whether what reads a group makes up for what is gone, by least squares.
        share: How far it also makes up for what was left out before it, from 0 to 1.
        damping: Of the least squares, as a part of the mean square of what is read.
        latency: Measured, or modelled.
        protect: The names of values whose channels all stay.
        untie: Prune even where a tied parameter must then be stored twice.
    """

    remove: float = 0.25
    of: Measure = "units"
    roles: tuple[Role, ...] = ("hidden", "heads")
    score: Importance | str = "reconstruction"
    solver: Solver | None = None
    multiple: int = 1
    recover: bool = True
    share: float = 0.5
    damping: float = 0.01
    latency: Latency | None = None
    protect: tuple[str, ...] = ()
    untie: bool = False
    what: ClassVar[str] = "a value that holds a group of channels"
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def __post_init__(self) -> None:
        check_part(self.remove)
        named(self.score, SCORES, "score")
        check_known(self.roles, ROLES, "role")
        check_known([self.of], get_args(Measure), "budget of")
        if self.of == "latency" and self.latency is None:
            raise InputError(
                "a budget of latency needs to know it",
                do="latency=function, of the number of units that each group keeps",
            )

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        found, remarks = self._groups(graph, asked)
        if not found or not self.remove:
            return remarks
        score = named(self.score, SCORES, "score")
        scores = score.of(graph, found, context)
        costs = Costs(graph, found, context.inputs)
        plan = _Plan(self, found, scores, costs)
        kept = plan.best()
        before, after = costs.both(), costs.both(kept)
        if self.recover:
            context.need_calibration(self.name)
            Masked(graph, found, kept, self.share, self.damping).run(
                context, f"{self.name}: making up"
            )
        remarks += self._carry_out(graph, found, kept)
        data = {
            "parameters": after[0],
            "macs": after[1],
            "kept": {g.name: int(k.sum()) for g, k in zip(found, kept, strict=True)},
            "preparation": True,
        }
        return [*remarks, decided(graph, lessened(before, after) + plan.note, **data)]

    def _groups(self, graph: Graph, asked: Asked) -> tuple[list[Group], list[Remark]]:
        remarks: list[Remark] = []
        found: list[Group] = []
        all_groups, stopped = groups(graph, self.roles)
        for value, reason in stopped:
            if asked(value):
                remarks.append(blocked(value, str(reason), reason))
        for group in all_groups:
            if not asked(*group):
                continue
            if protected := [v.name for v in group if v.name in self.protect]:
                remarks.append(missed(group.value, f"{protected[0]} is protected"))
            elif sentence := tie_in_the_way(graph, group.region, self.untie):
                remarks.append(missed(group.value, sentence))
            else:
                found.append(group)
        return found, remarks

    def _carry_out(
        self, graph: Graph, found: Sequence[Group], kept: Sequence[torch.Tensor]
    ) -> list[Remark]:
        """Take the channels out, heads last: they are counted in the places of the others."""
        remarks: list[Remark] = []
        steps = sorted(zip(found, kept, strict=True), key=lambda step: step[0].role == "heads")
        for group, stays in steps:
            value = graph[group.value.name]
            if bool(stays.all()):
                remarks.append(missed(value, f"{group.role}: all stay"))
                continue
            region = transport(graph, value, Kind.PERMUTATION, axes=group.axes)
            assert isinstance(region, Region)
            drop(graph, region, group.coordinates(stays))
            what = "heads" if group.role == "heads" else f"channels of {group.role}"
            left = int(stays.sum()) * group.size
            remarks.append(applied(value, f"{left} of {len(group.unit)} {what} stay"))
        return remarks


class _Plan:
    """Which units stay."""

    def __init__(
        self,
        prune: Prune,
        found: Sequence[Group],
        scores: Sequence[torch.Tensor],
        costs: Costs,
    ) -> None:
        self.prune, self.groups, self.costs = prune, found, costs
        self.order = [torch.argsort(score, descending=True, stable=True) for score in scores]
        self.lost = [
            torch.cat([torch.zeros(1, dtype=torch.float64), score.sort().values.cumsum(0)])
            for score in scores
        ]  # by how many units go
        self.legal = [self._legal(group) for group in found]
        self.note = ""

    def best(self) -> list[torch.Tensor]:
        """The units of each group that stay."""
        if self.prune.of == "units":
            return self.kept(self._even(self.prune.remove))
        budget = (1 - self.prune.remove) * self.price([group.count for group in self.groups])
        least = [legal[0] for legal in self.legal]
        if (floor := self.price(least)) > budget * (1 + 1e-9):
            whole = self.price([group.count for group in self.groups])
            raise InputError(
                f"{100 * self.prune.remove:.3g} % of the {self.prune.of} cannot be removed: with "
                f"one unit of each group left, {100 * (1 - floor / whole):.3g} % are",
                do="remove less, or let other roles lose units",
            )
        if self.prune.solver is None:
            return self.kept(self._spent(self._bisect(self._even, budget, least), budget))
        return self.kept(self._bisect(self._solved, budget, least))

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
        match self.prune.of:
            case "latency":
                assert self.prune.latency is not None
                names = {g.name: n for g, n in zip(self.groups, counts, strict=True)}
                return self.prune.latency(names)
            case "macs":
                return float(self.costs.macs(self.kept(counts)))
            case _:
                return float(self.costs.parameters(self.kept(counts)))

    def _even(self, part: float) -> list[int]:
        """The same part of each group, as near as its legal numbers come."""
        found: list[int] = []
        for group, legal in zip(self.groups, self.legal, strict=True):
            wanted = (1 - part) * group.count
            found.append(min(legal, key=lambda count: (abs(count - wanted), count)))
            if abs(found[-1] - wanted) >= 0.5 and self.prune.multiple > 1:
                step = f"a multiple of {self.prune.multiple} channels"
                self.note = f"; {step} stays of each group, the nearest to what was asked for"
        return found

    def _spent(self, counts: list[int], budget: float) -> list[int]:
        """An even choice with what the budget leaves spent, on groups that lost most first."""
        counts, rising = list(counts), set(range(len(counts)))
        while rising:
            row = min(rising, key=lambda row: (counts[row] / self.groups[row].count, row))
            more = next((count for count in self.legal[row] if count > counts[row]), None)
            tried = counts if more is None else [*counts[:row], more, *counts[row + 1 :]]
            if more is None or self.price(tried) > budget * (1 + 1e-9):
                rising.remove(row)
            else:
                counts = tried
        return counts

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

    def _solved(self, part: float) -> list[int]:
        """The counts of least damage where each group's cost is as if the others stayed whole."""
        solver = self.prune.solver
        assert solver is not None
        problem = self._problem
        least = float(problem.cost.min(1).values.sum())
        most = float(problem.cost.where(problem.cost.isfinite(), -torch.inf).max(1).values.sum())
        limit = most - part * (most - least)
        bounded = Problem(problem.names, problem.damage, problem.cost, limit)
        chosen = solver.solve(bounded)
        return [self._options[row][column] for row, column in enumerate(chosen)]

    @property
    def _options(self) -> list[list[int]]:
        """Of each group, the numbers of units that a solver chooses from."""
        return [_spaced(legal, CHOICES) for legal in self.legal]

    @property
    def _problem(self) -> Problem:
        if not hasattr(self, "_made"):
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
            self._made = Problem(names, damage, cost, full)
        return self._made

    def _legal(self, group: Group) -> list[int]:
        """The numbers of units that may stay, from the least; all may."""
        multiple = 1 if group.role == "heads" else self.prune.multiple
        fits = [n for n in range(1, group.count) if n * group.size % multiple == 0]
        return [*fits, group.count]


def _spaced(numbers: Collection[int], most: int) -> list[int]:
    """At most so many of some numbers, evenly, the first and the last among them."""
    some = list(numbers)
    places = torch.linspace(0, len(some) - 1, min(most, len(some))).round().long()
    return [some[place] for place in places.tolist()]
