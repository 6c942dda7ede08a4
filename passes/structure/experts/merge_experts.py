"""Let experts that are alike be one.

    experts of a cluster C:  f_e  ->  f_C,    W_C = sum_(e in C) u_e P_e(W_e),    sum u_e = 1

P_e is the permutation of e's hidden neurons that brings them nearest to those of the cluster's most
used expert, u_e the part of the cluster's rows that e had. The router stays whole: the numbers that
it chooses are mapped to those of the clusters behind it, so that every row goes where it went, with
the weights it had, and two experts of one cluster are that one twice. So it is exact where the
experts of each cluster are equal, but for the order of their neurons: whether these are slices of
stacked parameters, or layers of each expert's own whose results are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

import torch
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.spatial.distance import squareform

from ....ir import Graph, InputError
from ....ir.gauge.region import Refused
from ....ir.interpret import values_of
from ...base import Context, Promise, Remark, Stage, applied, blocked, missed
from ...options import COUNT, check_known, check_numbers
from ...sites import Asked, SparingPass
from ...ties import tie_in_the_way
from ..costs import Costs
from ..groups import in_full
from ..options import at_most, check_part, spared
from .expert_scores import UsageScore
from .mixtures import Mixture, mixtures, region_of
from .own import Own
from .removal import remove

By: TypeAlias = Literal["outputs", "weights"]


@dataclass(frozen=True)
class MergeExperts(SparingPass):
    """Merge experts.

    Args:
        remove: The part of the experts that is to go, from 0 to below 1.
        keep: In place of it, how many stay of each mixture.
        by: What says which experts are alike: what they make of the rows of the calibration data,
            or their weights, neurons aligned.
        align: Whether hidden neurons are brought into one order first.
        untie: Also where a tied parameter must then be stored twice.
    """

    remove: float = 0.5
    keep: int | None = None
    by: By = "outputs"
    align: bool = True
    untie: bool = False
    what: ClassVar[str] = "the linear layer that scores the experts of a mixture"
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def __post_init__(self) -> None:
        check_part(self.remove, of="the experts")
        check_known([self.by], get_args(By), "likeness by")
        check_numbers(self, keep=COUNT | None)

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        every, stopped = mixtures(graph)
        remarks = [blocked(v, str(reason), reason) for v, reason in stopped if asked(v)]
        found: list[Mixture] = []
        for mixture in every:
            if asked(mixture.router, *mixture.holding.choices):
                self._count(mixture)
                reason = asked.protected(mixture.router, *mixture.region().parameters)
                reason = reason or self._refused(graph, mixture)
                remarks += [missed(mixture.router, reason)] if reason else []
                found += [] if reason else [mixture]
        if not every and not stopped:
            text = "no linear layer scores experts that rows are then sent to"
            remarks.append(missed(graph.output, text))
        if not found:
            return remarks
        before = Costs(graph, [], context.inputs).both()
        usage = UsageScore().of(graph, found, context)
        likeness = _outputs(graph, found, context, self.name) if self.by == "outputs" else None
        for index, (mixture, used) in enumerate(zip(found, usage, strict=True)):
            own = Own.behind(graph, mixture)
            first = int(used.argmax())
            orders = own.orders(first, range(mixture.count)) if self.align else None
            far = own.distances(orders) if likeness is None else likeness[index]
            clusters = _clusters(far, self._count(mixture))
            remarks.append(self._merge(graph, mixture, own, used, clusters))
        after = Costs(graph, [], context.inputs).both()
        return [*remarks, spared(graph, before, after)]

    def _count(self, mixture: Mixture) -> int:
        """How many experts of a mixture stay; raises ``InputError`` where none would."""
        if self.keep is not None:
            return min(self.keep, mixture.count)
        if not (keep := round((1 - self.remove) * mixture.count)):
            raise InputError(
                f"remove={self.remove} leaves none of the {mixture.count} experts of "
                f"{mixture.name}",
                where=mixture.router.at,
                do=f"remove={at_most(1 - 1 / mixture.count)}, at most, or keep=1",
            )
        return keep

    def _refused(self, graph: Graph, mixture: Mixture) -> str:
        """Why the experts of a mixture cannot be merged, or nothing."""
        if not mixture.chosen:
            return "its rows take all experts, and no number says which is meant"
        if len(mixture.holding.choices) > 1:
            return "its experts are chosen one after the other, and a merged one would be twice"
        trial = graph.copy()
        try:
            twin = next(m for m in mixtures(trial)[0] if m.name == mixture.name)
            own = Own.behind(trial, twin)
        except Refused as refused:
            return str(refused.blocked)
        return tie_in_the_way(trial, region_of(own.holding, own.numbers), self.untie)

    def _merge(
        self,
        graph: Graph,
        mixture: Mixture,
        own: Own,
        usage: torch.Tensor,
        clusters: torch.Tensor,
    ) -> Remark:
        groups = [torch.nonzero(clusters == c).flatten() for c in clusters.unique()]
        first = torch.stack([group[usage[group].argmax()] for group in groups])
        order = first.argsort()
        for group, head in zip(groups, first.tolist(), strict=True):
            orders = own.orders(head, group.tolist()) if self.align else {}
            own.average(head, group, usage[group], orders)
        number = torch.empty(mixture.count, dtype=torch.int64)
        for place, index in enumerate(order.tolist()):
            number[groups[index]] = place
        graph.give(own.numbers, 0, number)
        kept = torch.zeros(mixture.count, dtype=torch.bool)
        kept[first] = True
        remove(own.holding, region_of(own.holding, own.numbers), kept)
        shown = " ".join(str(groups[index].tolist()) for index in order.tolist()[:8])
        text = f"{mixture.count} experts are {len(groups)}: {shown}"
        return applied(mixture.router, text, clusters=[groups[i].tolist() for i in order.tolist()])


def _clusters(distances: torch.Tensor, count: int) -> torch.Tensor:
    """The cluster of each, ``[experts]``: the nearest joined first, by their mean distance."""
    even = (distances + distances.T) / 2
    tree = linkage(squareform(even.fill_diagonal_(0).numpy(), checks=False), "average")
    return torch.from_numpy(cut_tree(tree, n_clusters=count)[:, 0]).long()


def _outputs(
    graph: Graph, found: Sequence[Mixture], context: Context, who: str
) -> list[torch.Tensor]:
    """How far what experts make of the same rows is from each other, by mixture."""
    batches, single = context.need_calibration(who), in_full(graph)
    by_name = {mixture.name: mixture for mixture in mixtures(single)[0]}
    own = [by_name[mixture.name] for mixture in found]
    wanted = list({node for mixture in own for node in mixture.entering()})
    squares = [torch.zeros(m.count, m.count, dtype=torch.float64) for m in own]
    for batch in context.progress(batches, f"{who}: watching experts"):
        values = dict(zip(wanted, values_of(single, batch, wanted), strict=True))
        with torch.no_grad():
            for total, mixture in zip(squares, own, strict=True):
                rows = [mixture.forced(values, e).double().flatten() for e in range(mixture.count)]
                total += torch.cdist(torch.stack(rows), torch.stack(rows)).square()
    return [total.sqrt() for total in squares]
