"""Let experts that are alike be one.

    experts of a cluster C:  f_e  ->  f_C,    W_C = sum_(e in C) u_e P_e(W_e),    sum u_e = 1

P_e is the permutation of e's hidden neurons that brings them nearest to those of the cluster's most
used expert, u_e the part of the cluster's rows that e had. The router stays whole: the numbers that
it chooses are mapped to those of the clusters behind it, so that every row goes where it went, with
the weights it had, and two experts of one cluster are that one twice. So it is exact where the
experts of each cluster are equal, but for the order of their neurons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import torch
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import squareform

from ....ir import Graph, InputError, Node
from ....ir.gauge import Region, transport
from ....ir.gauge.region import Refused, operand
from ....ir.gauge.tensors import places_of, transformed
from ....ir.interpret import values_of
from ....ir.laws import Action, Kind, Port
from ...base import Context, Promise, Remark, Stage, applied, blocked, decided, missed
from ...sites import Asked, SitePass
from ...ties import tie_in_the_way
from ..costs import Costs
from ..groups import in_full
from ..options import COUNT, at_most, check_known, check_numbers, check_part, lessened
from .expert_scores import UsageScore
from .holding import NUMBERS, Held, Holding, refuse
from .mixtures import Mixture, mixtures, region_of, run
from .removal import own_constants, remove

By: TypeAlias = Literal["outputs", "weights"]


@dataclass(frozen=True)
class MergeExperts(SitePass):
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
                reason = self._refused(graph, mixture)
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
            stacks = Stacks.behind(graph, mixture)
            first = int(used.argmax())
            orders = stacks.orders(first, range(mixture.count)) if self.align else None
            far = stacks.distances(orders) if likeness is None else likeness[index]
            clusters = _clusters(far, self._count(mixture))
            remarks.append(self._merge(graph, mixture, stacks, used, clusters))
        after = Costs(graph, [], context.inputs).both()
        data: dict[str, Any] = {"parameters": after[0], "macs": after[1], "preparation": True}
        return [*remarks, decided(graph, lessened(before, after), **data)]

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
        if mixture.chosen is None:
            return "its rows take all experts, and no number says which is meant"
        trial = graph.copy()
        try:
            twin = next(m for m in mixtures(trial)[0] if m.name == mixture.name)
            stacks = Stacks.behind(trial, twin)
        except Refused as refused:
            return str(refused.blocked)
        return tie_in_the_way(trial, region_of(stacks.holding, stacks.numbers), self.untie)

    def _merge(
        self,
        graph: Graph,
        mixture: Mixture,
        stacks: Stacks,
        usage: torch.Tensor,
        clusters: torch.Tensor,
    ) -> Remark:
        groups = [torch.nonzero(clusters == c).flatten() for c in clusters.unique()]
        first = torch.stack([group[usage[group].argmax()] for group in groups])
        order = first.argsort()
        for group, head in zip(groups, first.tolist(), strict=True):
            orders = stacks.orders(head, group.tolist()) if self.align else {}
            stacks.average(head, group, usage[group], orders)
        number = torch.empty(mixture.count, dtype=torch.int64)
        for place, index in enumerate(order.tolist()):
            number[groups[index]] = place
        graph.give(stacks.numbers, 0, number)
        kept = torch.zeros(mixture.count, dtype=torch.bool)
        kept[first] = True
        remove(stacks.holding, region_of(stacks.holding, stacks.numbers), kept)
        shown = " ".join(str(groups[index].tolist()) for index in order.tolist()[:8])
        text = f"{mixture.count} experts are {len(groups)}: {shown}"
        return applied(mixture.router, text, clusters=[groups[i].tolist() for i in order.tolist()])


@dataclass(frozen=True, eq=False)
class Stacks:
    """The parameters of the experts of a mixture, apart from its router.

    Attributes:
        numbers: The numbers that choose among them: those of the router, looked up in a table.
        hidden: The classes of their hidden neurons.
    """

    graph: Graph
    numbers: Node
    holding: Holding
    hidden: Sequence[Region]

    @classmethod
    def behind(cls, graph: Graph, mixture: Mixture) -> Stacks:
        """The stacks of a mixture of this graph, whose numbers become a look-up in it.

        Raises:
            Refused: Something else than stacked parameters tells the experts apart.
        """
        chosen = mixture.chosen
        assert chosen is not None
        scores = mixture.scoring()
        table = graph.param(f"{mixture.name}_numbers", torch.arange(mixture.count))
        numbers = graph.add(
            "index", table, (chosen,), before=graph.following(chosen), where=chosen.where
        )
        for user in list(chosen.users):
            data = user.args[0] if user.args else None
            if user is not numbers and data not in scores:
                user.replace_input(chosen, numbers)
        holding = Holding(graph, mixture.count)
        holding.know(numbers, NUMBERS)
        run(holding)
        for node, state in holding.states.items():
            if node.op == "scatter":
                refuse(node, "two experts of one cluster would overwrite each other")
            if node.op in ("stack", "cat") and isinstance(state, Held):
                refuse(node, "the experts are layers of their own, not one parameter")
        if holding.terms or not holding.taken:
            refuse(numbers, "the experts are layers of their own, not one parameter")
        own_constants(graph, region_of(holding, numbers))
        return cls(graph, numbers, holding, _hidden(graph, holding))

    def params(self) -> dict[Node, torch.Tensor]:
        """The parameters, with the expert of each place."""
        taken = {(node, port): labels for (node, port), labels in self.holding.taken.items()}
        found: dict[Node, torch.Tensor] = {}
        for (node, port), labels in taken.items():
            param = operand(node, port)
            assert param is not None
            found[param] = labels
        return found

    def orders(self, head: int, experts: Sequence[int]) -> dict[int, list[torch.Tensor]]:
        """For each expert the order of its neurons that is nearest to the head's, by class."""
        found: dict[int, list[torch.Tensor]] = {expert: [] for expert in experts}
        for region in self.hidden:
            rows = {e: self._rows(region, e) for e in {head, *experts}}
            for expert in experts:
                gain = (rows[head] @ rows[expert].T).numpy()
                order = linear_sum_assignment(gain, maximize=True)[1]
                found[expert].append(torch.from_numpy(order))
        return found

    def own(self, param: Node, expert: int, orders: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """What an expert has of a parameter, its neurons in another order."""
        labels = self.params()[param]
        value = _of(self.graph.value(param).double(), labels, expert)
        for region, order in zip(self.hidden, orders, strict=False):
            for action in _actions(region, param):
                own = Action(_of(action.labels, labels, expert), action.power)
                value = transformed(Kind.PERMUTATION, value, own, order)
        return value

    def average(
        self,
        head: int,
        experts: torch.Tensor,
        usage: torch.Tensor,
        orders: Mapping[int, Sequence[torch.Tensor]],
    ) -> None:
        """Put the mean of some experts, by their usage, in the place of one of them."""
        parts = usage / usage.sum() if usage.sum() > 0 else torch.full_like(usage, 1 / len(usage))
        for param, labels in self.params().items():
            value = self.graph.value(param)
            total = torch.zeros(())
            for expert, part in zip(experts.tolist(), parts, strict=True):
                total = total + part * self.own(param, expert, orders.get(expert, ()))
            (axis,) = Held(labels).axes
            places = torch.nonzero(labels.flatten() == head).flatten()
            new = value.index_copy(axis, places, total.to(value.dtype))
            self.graph.store[param.name] = new

    def distances(self, orders: Mapping[int, Sequence[torch.Tensor]] | None) -> torch.Tensor:
        """How far the weights of experts are from each other, ``[experts, experts]``."""
        rows = [
            torch.cat(
                [
                    self.own(param, expert, orders[expert] if orders else ()).flatten()
                    for param in self.params()
                ]
            )
            for expert in range(self.holding.count)
        ]
        return torch.cdist(torch.stack(rows), torch.stack(rows))

    def _rows(self, region: Region, expert: int) -> torch.Tensor:
        """All weights of each neuron, ``[neurons, weights]``."""
        found: list[torch.Tensor] = []
        for param, labels in self.params().items():
            for action in _actions(region, param):
                own = Action(_of(action.labels, labels, expert), action.power)
                found.append(places_of(self.own(param, expert), own, region.size))
        return torch.cat(found, 1)


def _of(tensor: torch.Tensor, labels: torch.Tensor, expert: int) -> torch.Tensor:
    """The places of one expert along the axis of experts."""
    (axis,) = Held(labels).axes
    if tensor.shape[axis] == 1:  # labels that do not vary along it
        return tensor
    places = torch.nonzero(labels.flatten() == expert).flatten()
    return tensor.index_select(axis, places)


def _actions(region: Region, param: Node) -> list[Action]:
    """How a parameter holds the neurons of a class; alike at all its readers."""
    found: dict[tuple[int, ...], Action] = {}
    for edit in region.edits.values():
        if operand(edit.node, edit.port) is param:
            found[edit.action.axes] = edit.action
    return list(found.values())


def _hidden(graph: Graph, holding: Holding) -> list[Region]:
    """The classes of neurons that the experts' parameters alone write and read."""
    params = {operand(node, port) for node, port in holding.taken}
    found: list[Region] = []
    seen: set[Node] = set()
    readers: list[tuple[Node, Port]] = [(node, port) for node, port in holding.taken]
    for node, port in readers:
        value = operand(node, (0,))
        if port != (1,) or value is None or value.op == "param" or value in seen:
            continue
        region = transport(graph, value, Kind.PERMUTATION)
        if isinstance(region, Region):
            seen |= region.actions.keys()
            if set(region.parameters) <= params:
                found.append(region)
    return found


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
