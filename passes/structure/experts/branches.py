"""Experts that are layers of their own: what belongs to each, and what corresponds from one to
another.

The branch of an expert is all that its results alone need. Experts can be one where their branches
are alike: the same ops in the same order, of the same shapes, which read the same values besides
each other and parameters of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ....ir import Node
from ....ir.gauge.region import operands
from .holding import NUMBERS, Held, Holding, refuse

_PLACE = frozenset({"index", "start", "end"})  # attributes that say which expert is meant


def branches(holding: Holding) -> list[list[Node]]:
    """The nodes that belong to each expert alone, in order."""
    owner: dict[Node, int] = {}
    for node in reversed(holding.graph.nodes):
        state = holding.state(node)
        if isinstance(state, Held) and state.only is not None:
            owner[node] = state.only
        elif not isinstance(state, Held) and state != NUMBERS:
            readers = {_reader(holding, node, user, owner) for user in node.users}
            if len(readers) == 1 and (expert := readers.pop()) is not None:
                owner[node] = expert
    found: list[list[Node]] = [[] for _ in range(holding.count)]
    for node in holding.graph.nodes:
        if node in owner:
            found[owner[node]].append(node)
    return found


def _reader(holding: Holding, node: Node, user: Node, owner: dict[Node, int]) -> int | None:
    """The expert for which a value is read, if it is one."""
    state = holding.state(user)
    if user.op == "stack" and isinstance(state, Held):
        places = [e for p, e in zip(user.args[0], state.labels.flatten(), strict=True) if p is node]
        return int(places[0]) if len(places) == 1 else None
    return owner.get(user)


def own_parameters(holding: Holding, some: Sequence[Sequence[Node]]) -> list[tuple[Node, ...]]:
    """Of each parameter that the first branch alone reads, those that the others have in its place.

    Raises:
        Refused: The branches are not alike, by the first op that differs.
    """
    first, *others = some
    pairs = [
        _Pairs(holding, (first, other), number) for number, other in enumerate(others, start=1)
    ]
    return [(param, *(pair.of[param] for pair in pairs)) for param in _own(first)]


def _own(branch: Sequence[Node]) -> dict[Node, None]:
    """The parameters that a branch alone reads, in order."""
    inside = set(branch)
    read = dict.fromkeys(used for node in branch for used in node.inputs if used.op == "param")
    return {param: None for param in read if param.users.keys() <= inside}


class _Pairs:
    """What corresponds in the branches of two experts."""

    def __init__(
        self, holding: Holding, both: tuple[Sequence[Node], Sequence[Node]], expert: int
    ) -> None:
        self.holding, self.expert = holding, expert
        self.own = [_own(branch) for branch in both]
        self.of: dict[Node, Node] = {}
        for node, other in zip(*both, strict=False):
            self._pair(node, other)
        if len(both[0]) != len(both[1]):
            longer = max(both, key=len)
            rest = longer[min(map(len, both))]
            counts = [len(branch) for branch in both]
            refuse(rest, f"expert 0 has {counts[0]} ops of its own, expert {expert} {counts[1]}")

    def _pair(self, node: Node, other: Node) -> None:
        picks = any(self._is_of_several(value) for value in operands(node).values())
        same = node.op == other.op and node.type == other.type
        args = zip(node.args, other.args, strict=False)
        if not same or len(node.args) != len(other.args):
            refuse(other, f"expert {self.expert} differs here from expert 0's {node.name}")
        if not all(self._same(*pair, picks=picks) for pair in args):
            refuse(
                other, f"expert {self.expert} reads other values here than expert 0's {node.name}"
            )
        attrs = [
            {key: value for key, value in one.attrs.items() if not (picks and key in _PLACE)}
            for one in (node, other)
        ]
        if attrs[0].keys() != attrs[1].keys() or not all(
            self._same(value, attrs[1][key]) for key, value in attrs[0].items()
        ):
            refuse(
                other,
                f"expert {self.expert} has other attributes here than expert 0's {node.name}",
            )
        self.of[node] = other

    def _is_of_several(self, value: Node) -> bool:
        """Whether a reader says which expert it means, as its labels prove."""
        state = self.holding.state(value)
        return state == NUMBERS or (isinstance(state, Held) and state.only is None)

    def _same(self, arg: Any, other: Any, *, picks: bool = False) -> bool:
        match arg, other:
            case Node(), Node():
                return self.of.get(arg, arg) is other or self._are_own(arg, other)
            case tuple(), tuple():
                pairs = zip(arg, other, strict=False)
                return len(arg) == len(other) and all(self._same(*pair) for pair in pairs)
            case _ if picks and isinstance(arg, int) and isinstance(other, int):
                return True
            case _:
                return type(arg) is type(other) and bool(arg == other)

    def _are_own(self, param: Node, other: Node) -> bool:
        """Whether a parameter of the other stands for one of the first; from then on it does."""
        mine, theirs = self.own
        if param in self.of or other in self.of.values():
            return False
        if param not in mine or other not in theirs or param.type != other.type:
            return False
        values = [self.holding.graph.value(p) for p in (param, other)]
        if not param.dtype.is_floating_point and not torch.equal(*values):
            return False
        self.of[param] = other
        return True
