"""Make a network narrower: leave out the channels, neurons and heads that are worth least.

    groups (what can go)  ->  score (what each unit is worth)  ->  how many of each group stay,
    under a budget  ->  the readers of what stays make up for the rest  ->  a smaller graph

What can go is derived from the graph (``groups``); nothing is masked in the end, all parameters and
values are truly smaller. With a score, a budget and a solver this is structured pruning by
magnitude, by Taylor expansion (A74, A70), or by what layers lose once they make up for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, get_args

import torch

from ....ir import Graph, InputError
from ....ir.gauge import Region, drop, transport
from ....ir.laws import Kind
from ...base import Context, Promise, Remark, Stage, applied, blocked, missed
from ...budget import Solver
from ...options import (
    AMOUNT,
    COUNT,
    SHARE,
    check_kinds,
    check_known,
    check_numbers,
    check_several,
    named,
)
from ...sites import Asked, SparingPass
from ...ties import tie_in_the_way
from ..costs import Costs
from ..groups import ROLES, Group, Role, groups
from ..options import check_part, spared
from .importance import SCORES, Importance
from .masking import Masked
from .plan import Latency, Measure, Plan


@dataclass(frozen=True)
class Prune(SparingPass):
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
        latency: Measured (``LatencyTable``), or modelled.
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
    untie: bool = False
    what: ClassVar[str] = "a value that holds a group of channels"
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def __post_init__(self) -> None:
        check_part(self.remove)
        check_kinds(self, solver=Solver | None, latency=Callable | None)
        check_numbers(self, multiple=COUNT, share=SHARE, damping=AMOUNT)
        named(self.score, SCORES, "score", Importance)
        check_several(self.roles, "roles", "hidden")
        check_known(self.roles, ROLES, "role")
        check_known([self.of], get_args(Measure), "budget of")
        if self.of == "latency" and self.latency is None:
            raise InputError(
                "a budget of latency needs to know it",
                do="latency=LatencyTable.on(target, graph, inputs, grid), or a function of the "
                "number of units that each group keeps",
            )

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        found, remarks = self._groups(graph, asked)
        if not found or not self.remove:
            return remarks
        score = named(self.score, SCORES, "score", Importance)
        scores = score.of(graph, found, context)
        costs = Costs(graph, found, context.inputs)
        plan = Plan(
            found, scores, costs, self.remove, self.of, self.solver, self.multiple, self.latency
        )
        kept = plan.best()
        before, after, latency = costs.both(), costs.both(kept), plan.latencies(kept)
        if self.recover:
            context.need_calibration(self.name)
            Masked(graph, found, kept, self.share, self.damping).run(
                context, f"{self.name}: making up"
            )
        remarks += self._carry_out(graph, plan, kept)
        counts = {g.name: int(k.sum()) for g, k in zip(found, kept, strict=True)}
        return [*remarks, spared(graph, before, after, latency=latency, kept=counts)]

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
            held = (param for param, _ in group.held())
            sentence = asked.protected(*group, *held)
            if sentence := sentence or tie_in_the_way(graph, group.region, self.untie):
                remarks.append(missed(group.value, sentence))
            else:
                found.append(group)
        return found, remarks

    def _carry_out(self, graph: Graph, plan: Plan, kept: Sequence[torch.Tensor]) -> list[Remark]:
        """Take the channels out, heads last: they are counted in the places of the others."""
        remarks: list[Remark] = []
        for row in sorted(range(len(kept)), key=lambda row: plan.groups[row].role == "heads"):
            group, stays = plan.groups[row], kept[row]
            count = int(stays.sum())
            value, why = graph[group.value.name], plan.why(row, count)
            if count == group.count:
                text = f"all {group.total} {group.what} stay{why}"
                remarks.append(missed(value, text, plan.help(row)))
                continue
            region = transport(graph, value, Kind.PERMUTATION, axes=group.axes)
            assert isinstance(region, Region)
            drop(graph, region, group.coordinates(stays))
            text = f"{count * group.step} of {group.total} {group.what} stay{why}"
            remarks.append(applied(value, text))
        return remarks
