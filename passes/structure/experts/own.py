"""What each expert of a mixture has of its own, apart from the router: tensors that correspond from
expert to expert, in stacks of all or a parameter each, and the hidden neurons that they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment

from ....ir import Graph, Node
from ....ir.gauge import Region, transport
from ....ir.gauge.region import operand
from ....ir.gauge.tensors import places_of, transformed
from ....ir.laws import Action, Kind, Port
from .branches import branches, own_parameters
from .holding import NUMBERS, Held, Holding, refuse
from .joining import check_joined
from .mixtures import Mixture, region_of, run
from .removal import own_constants

Orders = Mapping[int, Sequence[torch.Tensor]]  # of each expert, by class of hidden neurons


@dataclass(frozen=True, eq=False)
class Slot:
    """A tensor of which every expert has one.

    Attributes:
        params: One that is a stack of all, or one for each expert.
        labels: The expert of each place of a stack.
    """

    params: tuple[Node, ...]
    labels: torch.Tensor | None = None

    def of(self, graph: Graph, expert: int) -> torch.Tensor:
        """An expert's tensor, in float64."""
        if self.labels is None:
            return graph.value(self.params[expert]).double()
        return _of(graph.value(self.params[0]).double(), self.labels, expert)

    def put(self, graph: Graph, expert: int, value: torch.Tensor) -> None:
        """Give an expert another tensor."""
        param = self.params[0 if self.labels is not None else expert]
        old = graph.value(param)
        value = value.to(old.dtype)
        if self.labels is not None:
            value = old.index_copy(*_places(self.labels, expert), value)
        graph.store[param.name] = value

    def actions(self, region: Region, expert: int) -> list[Action]:
        """How an expert's tensor holds the neurons of a class; alike at all its readers."""
        found: dict[tuple[int, ...], Action] = {}
        for edit in region.edits.values():
            if operand(edit.node, edit.port) is self.params[0]:
                found[edit.action.axes] = edit.action
        if self.labels is None:
            return list(found.values())
        return [Action(_of(a.labels, self.labels, expert), a.power) for a in found.values()]


@dataclass(frozen=True, eq=False)
class Own:
    """The experts of a mixture.

    Attributes:
        numbers: The numbers that choose among them: those of the router, looked up in a table.
        slots: Their tensors.
        hidden: The classes of their hidden neurons, as the first expert or the stacks hold them.
    """

    graph: Graph
    numbers: Node
    holding: Holding
    slots: Sequence[Slot]
    hidden: Sequence[Region]

    @classmethod
    def behind(cls, graph: Graph, mixture: Mixture) -> Own:
        """The experts of a mixture of this graph, whose numbers become a look-up in it.

        Raises:
            Refused: Experts differ in more than their parameters, or several cannot be one.
        """
        (chosen,) = mixture.chosen
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
        check_joined(holding)
        some = branches(holding)
        layers = [Slot(params) for params in own_parameters(holding, some)]
        own_constants(graph, region_of(holding, numbers))
        slots = [*_stacks(holding), *(slot for slot in layers if _is_weight(slot.params[0]))]
        if not slots:
            refuse(numbers, "no weights tell the experts apart")
        return cls(graph, numbers, holding, slots, _hidden(graph, holding, slots, some[0]))

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

    def average(
        self, head: int, experts: torch.Tensor, usage: torch.Tensor, orders: Orders
    ) -> None:
        """Put the mean of some experts, by their usage, in the place of one of them."""
        parts = usage / usage.sum() if usage.sum() > 0 else torch.full_like(usage, 1 / len(usage))
        for slot in self.slots:
            total = torch.zeros(())
            for expert, part in zip(experts.tolist(), parts, strict=True):
                total = total + part * self._tensor(slot, expert, orders.get(expert, ()))
            slot.put(self.graph, head, total)

    def distances(self, orders: Orders | None) -> torch.Tensor:
        """How far the weights of experts are from each other, ``[experts, experts]``."""
        rows = [
            torch.cat(
                [
                    self._tensor(slot, expert, orders[expert] if orders else ()).flatten()
                    for slot in self.slots
                ]
            )
            for expert in range(self.holding.count)
        ]
        return torch.cdist(torch.stack(rows), torch.stack(rows))

    def _tensor(self, slot: Slot, expert: int, orders: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """An expert's tensor, its neurons in another order."""
        value = slot.of(self.graph, expert)
        for region, order in zip(self.hidden, orders, strict=False):
            for action in slot.actions(region, expert):
                value = transformed(Kind.PERMUTATION, value, action, order)
        return value

    def _rows(self, region: Region, expert: int) -> torch.Tensor:
        """All weights of each neuron, ``[neurons, weights]``."""
        found = [
            places_of(slot.of(self.graph, expert), action, region.size)
            for slot in self.slots
            for action in slot.actions(region, expert)
        ]
        return torch.cat(found, 1)


def _of(tensor: torch.Tensor, labels: torch.Tensor, expert: int) -> torch.Tensor:
    """The places of one expert along the axis of experts."""
    axis, places = _places(labels, expert)
    if tensor.shape[axis] == 1:  # labels that do not vary along it
        return tensor
    return tensor.index_select(axis, places)


def _places(labels: torch.Tensor, expert: int) -> tuple[int, torch.Tensor]:
    """The axis of experts, and where along it one is."""
    (axis,) = Held(labels).axes
    return axis, torch.nonzero(labels.flatten() == expert).flatten()


def _is_weight(param: Node) -> bool:
    return param.dtype.is_floating_point


def _stacks(holding: Holding) -> list[Slot]:
    """The parameters that hold all experts; not their numbers."""
    found: dict[Node, Slot] = {}
    for (node, port), labels in holding.taken.items():
        param = operand(node, port)
        assert param is not None
        if _is_weight(param):
            found[param] = Slot((param,), labels)
    return list(found.values())


def _hidden(
    graph: Graph, holding: Holding, slots: Sequence[Slot], branch: Sequence[Node]
) -> list[Region]:
    """The classes of neurons that the experts' parameters alone write and read."""
    params = {slot.params[0] for slot in slots}
    readers: list[tuple[Node, Port]] = [*holding.taken, *((node, (1,)) for node in branch)]
    found: list[Region] = []
    seen: set[Node] = set()
    for node, port in readers:
        if port != (1,) or operand(node, port) not in params:
            continue
        value = operand(node, (0,))
        if value is None or value.op == "param" or value in seen:
            continue
        region = transport(graph, value, Kind.PERMUTATION)
        if isinstance(region, Region):
            seen |= region.actions.keys()
            if set(region.parameters) <= params:
                found.append(region)
    return found
