"""What holds the experts of a mixture, and what must hold them for another value to.

A value may hold experts in two ways: by place, as scores, counts and stacks of matrices do
(``Held``), or by number, as what a choice gives does (``NUMBERS``). Each place of the first is
labelled with its expert, -1 where it has none; labels move with values, as in ``ir.laws``. Of an
expert that is left out, what its places hold is known where any one number is: minus infinity among
the scores, and from there on what ops make of it, such as 0 behind a softmax. So it is proven, op
by op (``rules``), that

    the graph in which the scores of some experts are -inf  =  the graph without their places

or refused, by the op that counts what is gone or has no rule. Of numbers nothing but their order
counts, and those that stay keep it.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeAlias

import torch

from ....ir import Graph, Node, ops
from ....ir.gauge import Blocked
from ....ir.gauge.region import Refused, operand, operands
from ....ir.graph import substitute
from ....ir.infer import sample
from ....ir.laws import (
    OUT,
    Action,
    Add,
    Call,
    Contract,
    Elementwise,
    Fill,
    Kind,
    Movement,
    Mul,
    Port,
    Reduce,
    Stop,
    Together,
    Where,
    compact,
)
from ....ir.types import TensorType, evaluate

SAME: Final = "same"  # whoever is left out
NUMBERS: Final = "numbers"  # of experts that are chosen
PLACES: Final = "places"  # of experts within a part of all


@dataclass(frozen=True, eq=False)
class Held:
    """A value that holds experts by place.

    Attributes:
        labels: The expert of each place, -1 for none, size 1 along axes on which they do not vary.
        gone: What a place holds for an expert that is left out, if that is known.
        last: Whether that is less than whatever stands beside it, or minus infinity.
    """

    labels: torch.Tensor
    gone: float | None = None
    last: bool = False

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which experts vary, from the end."""
        return Action(self.labels).axes

    @property
    def only(self) -> int | None:
        """The one expert that all of the value is about, if it is so."""
        return int(self.labels.flatten()[0]) if self.labels.numel() == 1 else None


@dataclass(frozen=True)
class Terms:
    """A sum of what these experts give, each zero where it is left out."""

    experts: frozenset[int]


State: TypeAlias = "Held | Terms | str | tuple[State, ...]"
POINTWISE = (Elementwise, Add, Mul, Where, Together)
COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or"})


@dataclass
class Holding:
    """All that holds the experts of one mixture, as far as they have been followed.

    Attributes:
        states: Of each value that holds experts.
        taken: The operands that are parameters, and the labels that they take.
        numbered: Those of them that are the numbers of the experts themselves.
        terms: The sums of what single experts give.
        least: How many experts must stay; of each part, where there are ``parts``.
        choices: What chooses experts: their numbers, in order.
    """

    graph: Graph
    count: int
    states: dict[Node, State] = field(default_factory=dict[Node, State])
    taken: dict[tuple[Node, Port], torch.Tensor] = field(
        default_factory=dict[tuple[Node, Port], torch.Tensor]
    )
    numbered: set[tuple[Node, Port]] = field(default_factory=set[tuple[Node, Port]])
    terms: dict[Node, None] = field(default_factory=dict[Node, None])
    least: int = 1
    parts: int = 1
    choices: dict[Node, None] = field(default_factory=dict[Node, None])

    def __post_init__(self) -> None:
        self.point = {name: max(low, 2) for name, (low, _) in self.graph.symbols.items()}
        self._place = {node: place for place, node in enumerate(self.graph.nodes)}
        self._queue: list[int] = []

    def pending(self) -> Node | None:
        """The first op that reads something newly known; it is taken off the queue."""
        if not self._queue:
            return None
        place = heapq.heappop(self._queue)
        while self._queue and self._queue[0] == place:
            heapq.heappop(self._queue)
        return self.graph.nodes[place]

    def state(self, value: Any) -> State:
        """How an operand holds experts, as far as is known."""
        return self.states.get(value, SAME) if isinstance(value, Node) else SAME

    def held(self, node: Node) -> dict[Port, Held]:
        """The operands that hold experts by place."""
        found = {port: self.state(value) for port, value in operands(node).items()}
        return {port: state for port, state in found.items() if isinstance(state, Held)}

    def know(self, node: Node, state: State) -> None:
        """Note how a value holds experts; raises ``Refused`` where it is known to do otherwise."""
        old = self.states.get(node)
        if isinstance(old, Held) and isinstance(state, Held):
            if not torch.equal(old.labels, state.labels):
                refuse(node, "it would hold the experts in two orders")
            if state.gone is None or (old.gone, old.last) == (state.gone, state.last):
                return
        elif old is not None:
            if old == state or (isinstance(old, tuple) and isinstance(state, tuple)):
                return
            refuse(node, "it would hold the experts in two ways")
        self.states[node] = state
        for user in node.users:
            if user.op != "output":
                heapq.heappush(self._queue, self._place[user])

    # -- what an operand must hold --------------------------------------------------------------

    def need(self, reader: Node, port: Port, labels: torch.Tensor) -> None:
        """Let an operand hold experts so, and what it is made of; raises ``Refused``."""
        value, labels = operand(reader, port), compact(labels).long()
        if value is None:
            return
        if value.op == "param":
            before = self.taken.setdefault((reader, port), labels)
            if not torch.equal(before, labels):
                refuse(reader, f"{value.name} would hold the experts in two ways")
            return
        if value.op == "input":
            refuse(value, "it is an input of the graph")
        match self.state(value):
            case Held(labels=old):
                if not torch.equal(old, labels):
                    refuse(value, "it holds the experts in another order")
            case "same":
                self._make(value, labels)
                self.know(value, Held(labels))
            case _:
                refuse(value, "it holds the experts in another way")

    def _make(self, node: Node, labels: torch.Tensor) -> None:
        """Let a value hold experts: what must its operands?"""
        law = ops.get(node.op).law
        match law:
            case _ if node.op == "expand" and self._expanded(node, labels):
                pass
            case _ if node.op == "repeat" and self.repeated(node, labels) is not None:
                pass
            case _ if node.op in ("cat", "stack"):
                self._collected(node, labels)
            case Movement():
                for port, action in self._asked(node, labels).items():
                    self.need(node, port, action.labels)
            case _ if (found := self.letters(node)) is not None:
                self._contracted(node, found, labels)
            case Reduce() if not self._window(node):
                dims = reduced(node)
                if not node.attrs.get("keepdim", False):
                    for axis in sorted(dims):
                        labels = labels.unsqueeze(axis)
                self.need(node, (0,), labels)
            case Fill():
                pass
            case _ if isinstance(law, POINTWISE) or node.op in COMPARISONS:
                self.spread(node, labels)
            case _:
                refuse(node, "it would have to give something for each expert, and has no rule")

    def spread(self, node: Node, labels: torch.Tensor) -> None:
        """Let all operands of a pointwise op that vary between experts hold them so."""
        axes = Held(labels).axes
        for port, value in operands(node).items():
            shape = self.shape(value)
            varied = [a for a in axes if -a <= len(shape) and shape[a] > 1]
            if varied == list(axes) and axes:
                rank = len(shape)
                at = labels[(0,) * (labels.dim() - rank)] if labels.dim() > rank else labels
                self.need(node, port, at.reshape([1] * (rank - at.dim()) + list(at.shape)))
            elif varied and varied != [axes[0]]:
                refuse(node, f"{value.name} varies along a part of the experts' axes")

    def _expanded(self, node: Node, labels: torch.Tensor) -> bool:
        """Whether what varies between experts here is one number before."""
        shape, axes = self.shape(node.args[0]), Held(labels).axes
        return all(-axis > len(shape) or shape[axis] == 1 for axis in axes[-1:])

    def repeated(self, node: Node, labels: torch.Tensor) -> int | None:
        """The axis along which all of a value is repeated once for each expert, in order."""
        shape, axes = self.shape(node.args[0]), Held(labels).axes
        if len(axes) != 1 or node.attrs["repeats"][axes[0]] != self.count:
            return None
        size = shape[axes[0]] if -axes[0] <= len(shape) else 1
        in_order = torch.arange(self.count).repeat_interleave(size)
        return axes[0] if torch.equal(labels.flatten(), in_order) else None

    def _collected(self, node: Node, labels: torch.Tensor) -> None:
        """What is put together of one part for each expert needs nothing of the parts."""
        parts, axes = node.args[0], Held(labels).axes
        dim = int(node.attrs.get("dim", 0)) % labels.dim() - labels.dim()
        if node.op == "stack" and axes == (dim,) and labels.numel() == len(parts):
            return
        refuse(node, "it puts together more than one part for each expert")

    def _contracted(
        self, node: Node, letters: Mapping[Port, Sequence[str]], labels: torch.Tensor
    ) -> None:
        if len(axes := Held(labels).axes) != 1:
            refuse(node, "what it gives would hold the experts along two axes")
        name = letters[OUT][axes[0]]
        for port, own in letters.items():
            if port != OUT and name in own:
                self.need(node, port, on(labels.flatten(), len(own), own.index(name)))

    def _asked(self, node: Node, labels: torch.Tensor) -> Mapping[Port, Action]:
        try:
            (flow,) = ops.get(node.op).law.flow(self.call(node, {OUT: labels}))
        except Stop as stop:
            refuse(node, str(stop))
        if flow.ties:
            refuse(node, "one value is repeated for several experts")
        return {port: action for port, action in flow.ports.items() if port != OUT}

    def _window(self, node: Node) -> bool:
        law = ops.get(node.op).law
        return isinstance(law, Reduce) and bool(law.window)

    def letters(self, node: Node) -> Mapping[Port, Sequence[str]] | None:
        """A letter for each axis of what a sum of products reads and gives; else ``None``."""
        if node.op == "aten.einsum.default":
            left, right = node.attrs["equation"].replace(" ", "").split("->")
            if "." in left:
                refuse(node, "its equation has axes without letters")
            return {OUT: right, **{(0, i): own for i, own in enumerate(left.split(","))}}
        law = ops.get(node.op).law
        if not isinstance(law, Contract):
            return None
        found = law.letters(self.call(node, {}))
        return {**found, (2,): found[OUT][-1:]} if (2,) in found else found

    # -- shapes and calls -----------------------------------------------------------------------

    def shape(self, node: Node) -> tuple[int, ...]:
        return tuple(evaluate(size, self.point) for size in node.shape)

    def along(self, rank: int, axis: int) -> torch.Tensor:
        """The labels of all experts, in order, along one axis."""
        return on(torch.arange(self.count), rank, axis)

    def call(self, node: Node, known: Mapping[Port, torch.Tensor]) -> Call:
        """A call as laws see it, labels as a permutation's."""
        read = operands(node).items()
        shapes = {port: self.shape(v) for port, v in read if isinstance(v.type, TensorType)}
        shapes[OUT] = self.shape(node)
        attrs = {key: sample(value, self.point) for key, value in node.attrs.items()}
        args = tuple(substitute(arg, lambda _: None) for arg in node.args)
        actions = {port: Action(labels.int()) for port, labels in known.items()}
        return Call(node, Kind.PERMUTATION, actions, shapes, attrs, args, self.count)


def refuse(node: Node, reason: str) -> NoReturn:
    """Stop, for a reason that an op gives."""
    raise Refused(Blocked(node, reason))


def reduced(node: Node) -> set[int]:
    """The axes that a reduction runs over, from the front."""
    rank, dims = len(node.args[0].shape), node.attrs.get("dim")
    if dims is None or dims == ():
        return set(range(rank))
    return {int(dim) % rank for dim in (dims if isinstance(dims, tuple) else (dims,))}


def on(labels: torch.Tensor, rank: int, axis: int) -> torch.Tensor:
    """Labels along one axis of so many."""
    sizes = [1] * rank
    sizes[axis] = len(labels)
    return labels.reshape(sizes)
