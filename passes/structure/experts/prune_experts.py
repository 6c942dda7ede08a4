"""Leave whole experts out of mixtures.

    scores - inf for some experts  =  a smaller graph, without their rows of the router, their
    matrices, and their numbers

The two are equal wherever all that holds the experts can be followed (``mixtures``); which go is
said by a score: how often they are chosen, what the router gives them (TCESS, A67), how much longer
their rows of the router have become since a base model (A04), or what results lose. The data that a
score sees may be those of one task: the experts that stay are then that task's pattern (A67).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import torch

from ....ir import Graph, InputError
from ...base import Context, Promise, Remark, Stage, applied, blocked, missed
from ...options import COUNT, check_kinds, check_known, check_numbers, named
from ...sites import Asked, SparingPass
from ...ties import tie_in_the_way
from ..costs import Costs
from ..options import check_part, spared
from .expert_scores import SCORES, ExpertScore
from .mixtures import Mixture, mixtures
from .removal import own_constants, remove

Over: TypeAlias = Literal["mixture", "graph"]
Experts: TypeAlias = Mapping[str, Sequence[int]]  # by the names of routers


@dataclass(frozen=True)
class PruneExperts(SparingPass):
    """Leave out experts.

    Args:
        remove: The part of the experts that is to go, from 0 to below 1.
        keep: In place of it, how many stay of each mixture.
        over: ``mixture``: the same part of each; ``graph``: those that are worth least of all.
        score: What an expert is worth (``expert_scores``), or the name of a score.
        experts: In place of all of these, the experts that stay, by the names of routers.
        untie: Also where a tied parameter must then be stored twice.
    """

    remove: float = 0.5
    keep: int | None = None
    over: Over = "mixture"
    score: ExpertScore | str = "output"
    experts: Experts | None = None
    untie: bool = False
    what: ClassVar[str] = "the linear layer that scores the experts of a mixture"
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def __post_init__(self) -> None:
        check_part(self.remove, of="the experts")
        check_numbers(self, keep=COUNT | None)
        check_kinds(self, experts=Mapping | None)
        check_known([self.over], get_args(Over), "range")
        if self.score == "drift":
            raise InputError(
                "a drift is one from a base model", do="score=DriftScore(base), its graph or state"
            )
        named(self.score, SCORES, "score", ExpertScore)
        if self.keep is not None and self.over == "graph":
            raise InputError(
                f"keep={self.keep} is the number that stays of each mixture",
                do='over="mixture", or remove=...',
            )

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        before = Costs(graph, [], context.inputs).both()  # shared constants are then parted
        found, remarks = self._mixtures(graph, asked)
        if not found:
            return remarks
        kept = self.kept(graph, found, context)
        for mixture, stays in zip(found, kept, strict=True):
            numbers = torch.nonzero(stays).flatten().tolist()
            text = f"{len(numbers)} of {mixture.count} experts stay"
            if bool(stays.all()):
                remarks.append(missed(mixture.router, f"all {mixture.count} experts stay"))
                continue
            remove(mixture.holding, mixture.region(), stays)
            remarks.append(applied(mixture.router, f"{text}: {_listed(numbers)}", kept=numbers))
        after = Costs(graph, [], context.inputs).both()
        return [*remarks, spared(graph, before, after)]

    def kept(self, graph: Graph, found: Sequence[Mixture], context: Context) -> list[torch.Tensor]:
        """Which experts of each mixture stay, ``bool[experts]``."""
        if self.experts is not None:
            return [_given(mixture, self.experts) for mixture in found]
        counts: list[int] = []
        if self.over == "mixture":
            counts = [
                _nearest(mixture, self.remove)
                if self.keep is None
                else _counted(mixture, self.keep)
                for mixture in found
            ]
        score = named(self.score, SCORES, "score", ExpertScore)
        scores = score.of(graph, found, context)
        counts = counts or _globally(found, scores, self.remove)
        return [_best(*pair) for pair in zip(found, scores, counts, strict=True)]

    def _mixtures(self, graph: Graph, asked: Asked) -> tuple[list[Mixture], list[Remark]]:
        found: list[Mixture] = []
        remarks: list[Remark] = []
        every, stopped = mixtures(graph)
        for value, reason in stopped:
            if asked(value):
                remarks.append(blocked(value, str(reason), reason))
        if (
            unknown := {*(self.experts or {})}
            - {mixture.name for mixture in every}
            - {v.name for v, _ in stopped}
        ):
            raise InputError(
                f"no mixture has a router called {', '.join(sorted(unknown))}",
                do="name some of " + (", ".join(m.name for m in every) or "those of another graph"),
            )
        for mixture in every:
            if not asked(mixture.router, *mixture.holding.choices):
                continue
            region = mixture.region()
            own_constants(graph, region)
            if sentence := asked.protected(mixture.router, *region.parameters) or tie_in_the_way(
                graph, region, self.untie
            ):
                remarks.append(missed(mixture.router, sentence))
            else:
                found.append(mixture)
        if not every and not stopped:
            text = "no linear layer scores experts that rows are then sent to"
            remarks.append(missed(graph.output, text))
        return found, remarks


def patterns(
    graph: Graph,
    tasks: Mapping[str, Sequence[Sequence[Any]]],
    step: PruneExperts,
    context: Context | None = None,
) -> dict[str, dict[str, tuple[int, ...]]]:
    """The experts that stay for each task (A67): what ``PruneExperts(experts=...)`` takes.

    Args:
        tasks: Calibration batches of each, by its name.
        step: How many stay, and by which score.
    """
    found = mixtures(graph)[0]
    chosen: dict[str, dict[str, tuple[int, ...]]] = {}
    for task, batches in tasks.items():
        own = replace(context or Context(inputs=batches[0]), calibration=batches)
        kept = step.kept(graph, found, own)
        chosen[task] = {
            mixture.name: tuple(torch.nonzero(stays).flatten().tolist())
            for mixture, stays in zip(found, kept, strict=True)
        }
    return chosen


# -- how many, and which --------------------------------------------------------------------------


def _legal(mixture: Mixture) -> list[int]:
    return [n for n in range(mixture.least, mixture.count + 1) if n % mixture.holding.parts == 0]


def _nearest(mixture: Mixture, part: float) -> int:
    """How many stay of a mixture, as near to what is asked as its parts allow."""
    wanted = (1 - part) * mixture.count
    if round(wanted) < mixture.least:
        _too_few(mixture, f"remove={part:.4g} leaves {round(wanted)}")
    return min(_legal(mixture), key=lambda count: (abs(count - wanted), -count))


def _counted(mixture: Mixture, keep: int) -> int:
    if keep < mixture.least:
        _too_few(mixture, f"keep={keep} leaves {keep}")
    count = min(keep, mixture.count)
    if count not in (legal := _legal(mixture)):
        near = min(legal, key=lambda n: abs(n - count))
        raise InputError(
            f"{mixture.name} has its experts in {mixture.holding.parts} parts, of which as many "
            f"must stay: not {count} in all",
            do=f"keep={near}",
        )
    return count


def _too_few(mixture: Mixture, asked: str) -> None:
    least, count = mixture.least, mixture.count
    raise InputError(
        f"{asked} of the {count} experts of {mixture.name}, and rows must find {least}",
        where=mixture.router.at,
        do=f"keep={least}, or remove={1 - least / count:.4g}, at most",
    )


def _given(mixture: Mixture, experts: Experts) -> torch.Tensor:
    stays = torch.ones(mixture.count, dtype=torch.bool)
    if mixture.name not in experts:
        return stays
    numbers = list(experts[mixture.name])
    if any(number not in range(mixture.count) for number in numbers):
        raise InputError(
            f"{mixture.name} has no experts {_listed(numbers)}",
            do=f"numbers from 0 to {mixture.count - 1}",
        )
    stays = torch.isin(torch.arange(mixture.count), torch.tensor(numbers, dtype=torch.int64))
    if int(stays.sum()) < mixture.least:
        _too_few(mixture, f"experts={_listed(numbers)} leaves {int(stays.sum())}")
    by_part = stays.reshape(mixture.holding.parts, -1).sum(1)
    if len(by_part.unique()) != 1:
        raise InputError(
            f"{mixture.name} has its experts in parts, of which {by_part.tolist()} would stay",
            do="as many of each part",
        )
    return stays


def _best(mixture: Mixture, scores: torch.Tensor, count: int) -> torch.Tensor:
    """The experts that are worth most, as many of each part."""
    by_part = scores.reshape(mixture.holding.parts, -1)
    order = by_part.argsort(dim=1, descending=True, stable=True)
    stays = torch.zeros_like(by_part, dtype=torch.bool)
    return stays.scatter(1, order[:, : count // mixture.holding.parts], True).flatten()


def _globally(found: Sequence[Mixture], scores: Sequence[torch.Tensor], part: float) -> list[int]:
    """How many stay of each, where those go that are worth least of all."""
    total = sum(mixture.count for mixture in found)
    wanted = round((1 - part) * total)
    least = sum(mixture.least for mixture in found)
    if wanted < least:
        raise InputError(
            f"remove={part:.4g} leaves {wanted} of {total} experts, and rows must find {least}",
            do=f"remove={1 - least / total:.4g}, at most",
        )
    counts = [mixture.least for mixture in found]
    spare = [
        (float(worth), index)
        for index, (mixture, own) in enumerate(zip(found, scores, strict=True))
        for worth in own.sort(descending=True).values[mixture.least :].tolist()
    ]
    for _, index in sorted(spare, key=lambda pair: -pair[0])[: wanted - least]:
        counts[index] += 1
    return [
        -(-count // mixture.holding.parts) * mixture.holding.parts
        for count, mixture in zip(counts, found, strict=True)
    ]


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"{shown} and {len(numbers) - 8} more" if len(numbers) > 8 else shown
