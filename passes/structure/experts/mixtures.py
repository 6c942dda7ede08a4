"""The mixtures of experts of a graph: found from what the scores of a router do, not by names.

A linear layer scores experts if what it gives is chosen among, or is made into parts of one, and
all that tells the experts apart from there on can be followed to its end (``rules``): matrices
stacked for products by group or looked up by number, dense ones of which most are weighted with
zero, or layers of each expert's own whose results are added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ....ir import Graph, Node, ops
from ....ir.gauge import Blocked
from ....ir.gauge.region import Edit, Refused, Region, operands
from ....ir.graph import ancestors
from ....ir.interpret import Tap, compute
from ....ir.laws import Action, Add, Elementwise, Kind, Movement, Mul, Softmax, Where
from . import rules
from .holding import SAME, Held, Holding

_LIGHT = (Elementwise, Movement, Add, Mul, Where)


@dataclass(frozen=True, eq=False)
class Mixture:
    """A router and its experts.

    Attributes:
        router: The linear layer that scores them.
        holding: All that holds them.
        result: The value by which everything that depends on the scores has come together.
    """

    router: Node
    holding: Holding
    result: Node

    @property
    def name(self) -> str:
        return self.router.name

    @property
    def count(self) -> int:
        """How many experts there are."""
        return self.holding.count

    @property
    def least(self) -> int:
        """How many must stay."""
        return self.holding.least * self.holding.parts

    @property
    def active(self) -> int:
        """How many a row takes; all, where none are chosen."""
        ranks = [int(node.attrs.get("k", 1)) for node in self.holding.choices]
        return min(sum(ranks), self.count) if ranks else self.count

    @property
    def chosen(self) -> list[Node]:
        """The numbers of those that each row takes, of each choice; none where it takes all, or
        reads scores alone."""
        choices = self.holding.choices
        alone = [node for node in choices if node.op == "argmax"]
        others = [user for node in choices if node.op != "argmax" for user in node.users]
        return alone + [user for user in others if user.op == "getitem" and user.args[1] == 1]

    @property
    def nodes(self) -> list[Node]:
        """What is computed from the scores up to the result, in order."""
        behind, inside = ancestors([self.result]) | {self.result}, {self.router}
        for node in self.holding.graph.nodes:
            if node in behind and not inside.isdisjoint(node.inputs):
                inside.add(node)
        return [n for n in self.holding.graph.nodes if n in inside and n is not self.router]

    def region(self) -> Region:
        """The parameters that hold the experts, as the gauge analysis has them."""
        return region_of(self.holding, self.router)

    def scoring(self) -> set[Node]:
        """The values that are made of the scores without a choice: positions in them stay."""
        found = {self.router}
        for node in self.nodes:
            inside = [value for value in node.inputs if value in found]
            if inside and node not in self.holding.choices:
                found.add(node)
        return found

    def without(self, kept: torch.Tensor) -> Tap:
        """What gives, in a run of the graph, minus infinity to experts that do not stay."""

        def tap(node: Node, value: Any) -> Any:
            state = self.holding.state(node)
            if not isinstance(state, Held) or state.gone != -torch.inf:
                return None
            gone = torch.where(state.labels >= 0, ~kept[state.labels], False)
            return value.masked_fill(gone, -torch.inf)

        return tap

    def masked(self, values: Mapping[Node, Any], kept: torch.Tensor) -> Any:
        """The result as it is without some experts, from what it is computed from."""
        tap = self.without(kept)
        return self._replayed({**values, self.router: tap(self.router, values[self.router])}, tap)

    def forced(self, values: Mapping[Node, Any], expert: int) -> Any:
        """The result if all rows took one expert, with the weights that they have."""
        chosen = self.chosen

        def tap(node: Node, value: Any) -> Any:
            return torch.full_like(value, expert) if node in chosen else None

        return self._replayed(dict(values), tap)

    def entering(self) -> set[Node]:
        """The values that the result is computed from, the scores among them."""
        nodes = set(self.nodes)
        return {value for node in nodes for value in node.inputs if value not in nodes}

    def _replayed(self, values: dict[Node, Any], tap: Tap) -> Any:
        compute(self.nodes, values, keep=[self.result], tap=tap)
        return values[self.result]


def mixtures(graph: Graph) -> tuple[list[Mixture], list[tuple[Node, Blocked]]]:
    """The mixtures of a graph, in order, and what keeps other choices from being any."""
    found: list[Mixture] = []
    stopped: list[tuple[Node, Blocked]] = []
    for node in graph.nodes:
        if node.op != "linear" or node.args[1].op != "param":
            continue
        ends = _ends(node)
        chooses = any(end.op in rules.CHOICES for end in ends)
        if not ends or not isinstance(node.shape[-1], int) or node.shape[-1] < 2:
            continue
        try:
            holding = follow(graph, node)
            if _is_mixture(graph, node, holding):
                found.append(Mixture(node, holding, _result(graph, node, holding)))
        except Refused as refused:
            if chooses:
                stopped.append((node, refused.blocked))
    return found, stopped


def region_of(holding: Holding, value: Node) -> Region:
    """The parameters that hold experts, as the gauge analysis has them."""
    region = Region(holding.graph, Kind.PERMUTATION, value, holding.count)
    for (node, port), labels in holding.taken.items():
        action = Action(labels.int())
        region.edits[node, port, action.axes] = Edit(node, port, action)
    return region


def follow(graph: Graph, router: Node) -> Holding:
    """All that holds what a linear layer scores; raises ``Refused``."""
    holding = Holding(graph, int(router.shape[-1]))
    labels = holding.along(len(router.shape), -1)
    holding.need(router, (1,), holding.along(2, 0))
    if router.operand(2) is not None:
        holding.need(router, (2,), holding.along(1, 0))
    holding.know(router, Held(labels, -torch.inf, last=True))
    run(holding)
    return holding


def run(holding: Holding) -> None:
    """Follow all that is known to its end; raises ``Refused``."""
    while (node := holding.pending()) is not None:
        state = rules.apply(holding, node)
        if state != SAME:
            holding.know(node, state)
    for value in holding.graph.output.inputs:
        if holding.state(value) != SAME:
            raise Refused(Blocked(value, "an output of the graph tells the experts apart"))


def _ends(node: Node) -> list[Node]:
    """The choices, and the softmaxes, that a value reaches by ops that act position by position."""
    found: list[Node] = []
    seen, stack = {node}, [node]
    while stack:
        for user in stack.pop().users:
            if user in seen or user.op == "output":
                continue
            seen.add(user)
            law = ops.get(user.op).law
            if user.op in rules.CHOICES or isinstance(law, Softmax):
                found.append(user)
            elif isinstance(law, _LIGHT):
                stack.append(user)
    return found


def _is_mixture(graph: Graph, router: Node, holding: Holding) -> bool:
    """Whether there is more to the experts than their scores: matrices, or layers of their own."""
    put_together = (
        all(holding.state(part) == SAME for part in node.args[0])
        for node, state in holding.states.items()
        if node.op == "stack" and isinstance(state, Held)
    )
    if holding.terms or any(put_together):
        return True
    stacks = [node.args[port[0]] for node, port in holding.taken if node is not router]
    return any(isinstance(p, Node) and len(p.shape) > 1 for p in stacks)


def _result(graph: Graph, router: Node, holding: Holding) -> Node:
    """The value behind all that tells experts apart through which alone the rest of the graph reads
    it, summed over the places of a row where it has several."""
    told = [*holding.states, *holding.terms, *(node for node, _ in holding.taken)]
    place = {node: index for index, node in enumerate(graph.nodes)}
    end = max(place[node] for node in told)
    reached, open_ = {router}, {router}
    for node in graph.nodes[place[router] + 1 :]:
        if reached.isdisjoint(operands(node).values()):
            continue
        reached.add(node)
        open_ = {n for n in (*open_, node) if _is_open(n, place, place[node])}
        if place[node] >= end and open_ == {node} and holding.state(node) == SAME:
            return _gathered(node)
    raise Refused(Blocked(router, "no single value has all that its experts give"))


def _is_open(node: Node, place: dict[Node, int], here: int) -> bool:
    return any(user.op == "output" or place[user] > here for user in node.users)


def _gathered(node: Node) -> Node:
    """A value followed on through what only moves and sums it."""
    while len(node.users) == 1 and (user := next(iter(node.users))).op != "output":
        if not isinstance(ops.get(user.op).law, Movement) and user.op != "sum":
            break
        if list(operands(user).values()) != [node]:
            break
        node = user
    return node
