"""The laws by which a symmetry passes through an op.

A **coordinate** is one of the channels that a group acts on, and an **action** says how a value
changes: for each of its positions, which coordinate it holds (``labels``, -1 for one that stays as
it is), and with which sign of the exponent. With a group element g, a value x becomes, position by
position,

    SCALE        x * s[label] ** power         s > 0
    SIGN         x * s[label]                  s = +-1
    SHIFT        x + power * z[label]
    PERMUTATION  the value that coordinate p[label] held
    CENTRE       x - mean(x) over the labelled axis (a projection: it only flows back to what writes
                 x)
    ORTHOGONAL   x @ Q, the vector of what the coordinates hold: Q Q' = 1
    LINEAR       x @ M for power -1 and x @ inv(M)' for power 1, any invertible M

A coordinate may stand in several places (a head that several queries share); a matrix then acts on
the first of each, on the second of each, and so on. Where only some of the coordinates stand in a
value, it must not mix them with the others: laws name such **cells**.

``labels`` has the rank of its value and size 1 along each axis on which it does not vary. Labels
move with positions: a reshape, a head split, or the repetition of grouped-query attention is
followed by running that very op on the labels.

A law gets the actions known at some of an op's ports and answers with those that all ports must
then have, or with several such answers to choose from, or it stops with the reason. Every law is
tested on random numbers by ``tests/ir/test_laws.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

if TYPE_CHECKING:
    from ..graph import Node


class Kind(Enum):
    """A family of group elements."""

    SCALE = "scale"
    SIGN = "sign"
    SHIFT = "shift"
    PERMUTATION = "permutation"
    CENTRE = "centre"
    ORTHOGONAL = "orthogonal"
    LINEAR = "linear"


DIAGONAL = frozenset({Kind.SCALE, Kind.SIGN, Kind.SHIFT})  # coordinates do not mix
MIXING = frozenset({Kind.PERMUTATION, Kind.ORTHOGONAL, Kind.LINEAR})  # they do, within their cells

# (i,) is the i-th operand, (i, j) the j-th of a tuple of operands, () the result.
Port: TypeAlias = tuple[int, ...]
OUT: Port = ()


@dataclass(frozen=True, eq=False)
class Action:
    """How one value changes; see the top of this file."""

    labels: torch.Tensor
    power: int = 1

    @functools.cached_property
    def axes(self) -> tuple[int, ...]:
        """The axes along which coordinates vary, counted from the end: -1 is the last."""
        rank = self.labels.dim()
        return tuple(i - rank for i, size in enumerate(self.labels.shape) if size > 1)

    def inverse(self) -> Action:
        return replace(self, power=-self.power)

    def same(self, other: Action) -> bool:
        return self.power == other.power and torch.equal(self.labels, other.labels)


def interned(action: Action) -> Action:
    """The same action, one object for all with its labels: the layers of a model repeat a few, and
    what is found out of one is kept."""
    labels = action.labels.int().contiguous()
    if not labels.numel():  # a cache that starts empty
        return action
    return _interned(tuple(labels.shape), labels.numpy().tobytes(), action.power)


@functools.lru_cache(maxsize=512)
def _interned(shape: tuple[int, ...], labels: bytes, power: int) -> Action:
    return Action(torch.frombuffer(bytearray(labels), dtype=torch.int32).reshape(shape), power)


class Stop(Exception):
    """The symmetry does not pass; the message says why."""


@dataclass
class Flow:
    """What must hold at an op's ports.

    Attributes:
        ports: Actions that values and parameters at these ports must have.
        also: Second actions of parameters, along other axes.
        through: Shifts that the op's bias takes up: the action at an operand, carried through the
            weights.
        cells: Colours of the coordinates, ``[size]``, or rows of them, ``[rows, n]``: an element
            that mixes coordinates must keep to those of one colour, or of one row.
        ties: Coordinates that change alike, in pairs: place by place what one side and what the
            other holds.
    """

    ports: dict[Port, Action] = field(default_factory=dict[Port, Action])
    through: dict[Port, Action] = field(default_factory=dict[Port, Action])
    also: dict[Port, Action] = field(default_factory=dict[Port, Action])
    cells: list[torch.Tensor] = field(default_factory=list[torch.Tensor])
    ties: list[tuple[torch.Tensor, torch.Tensor]] = field(
        default_factory=list[tuple[torch.Tensor, torch.Tensor]]
    )


@dataclass(frozen=True)
class Call:
    """An op with the actions known at its ports, and the concrete shapes of all."""

    node: Node
    kind: Kind
    known: Mapping[Port, Action]
    shapes: Mapping[Port, tuple[int, ...]]
    attrs: Mapping[str, Any]  # with numbers in place of symbolic sizes
    args: tuple[Any, ...]  # the operands, nodes replaced by None
    size: int  # how many coordinates there are

    @property
    def operands(self) -> Iterator[Port]:
        return (port for port in self.shapes if port != OUT)

    def held(self, action: Action, where: str) -> list[torch.Tensor]:
        """The cells of an action on an axis that is summed over.

        What stands there equally often may be mixed, and what does not stand there with its like.
        For the mean all coordinates must stand there once, and nothing else; raises ``Stop``.
        """
        counts, even = _counts(action, self.size)
        if self.kind is Kind.CENTRE:
            if bool((counts != 1).any()) or bool((action.labels < 0).any()):
                raise Stop(f"{where} only a part of the channels")
        return [] if even else [counts]

    def within(self, action: Action, axes: Sequence[int]) -> list[torch.Tensor]:
        """The cells of an action that may not move a place along these axes."""
        labels, rank = action.labels, action.labels.dim()
        sorts = torch.zeros((), dtype=torch.int64)
        for axis in {axis % rank for axis in axes}:
            size = labels.shape[axis]
            index = torch.arange(size).reshape([-1 if a == axis else 1 for a in range(rank)])
            sorts = sorts * size + index
        return [colours(labels, sorts, self.size)] if sorts.numel() > 1 else []


@functools.lru_cache(maxsize=512)
def _counts(action: Action, size: int) -> tuple[torch.Tensor, bool]:
    """In how many places each coordinate stands, and whether that is the same for all."""
    flat = action.labels.flatten()
    counts = torch.bincount(flat[flat >= 0], minlength=size)
    return counts, bool((counts == counts[0]).all())


class Law:
    """No symmetry passes: the law of an op of which nothing is known."""

    def flow(self, call: Call) -> Sequence[Flow]:
        """The alternatives, best first; raises ``Stop``."""
        raise Stop(f"no law is known for {call.node.op}")

    def passes(self, kind: Kind) -> bool:
        """Whether some element of this kind may pass."""
        return False


OPAQUE = Law()


def colours(labels: torch.Tensor, sorts: torch.Tensor, size: int) -> torch.Tensor:
    """Which coordinates may be exchanged if what a place holds must come from one of its sort.

    The first place of a coordinate then comes to hold what the first of another did, and so on: so
    their places must be of the same sorts in the same order. The answer is a colour for each
    coordinate, ``[size]``.
    """
    flat, sort = labels.flatten().int(), sorts.expand(labels.shape).flatten().long()
    if not flat.numel():
        return torch.zeros(size, dtype=torch.int64)
    return _colours(flat.numpy().tobytes(), sort.numpy().tobytes(), size)


@functools.lru_cache(maxsize=256)  # the layers of a model repeat a few
def _colours(labels: bytes, sorts: bytes, size: int) -> torch.Tensor:
    flat = torch.frombuffer(bytearray(labels), dtype=torch.int32).long()
    sort = torch.frombuffer(bytearray(sorts), dtype=torch.int64)
    order = torch.argsort(flat, stable=True)
    order = order[flat[order] >= 0]
    held = flat[order]
    counts = torch.bincount(held, minlength=size)
    rank = torch.arange(held.numel()) - (counts.cumsum(0) - counts)[held]
    table = torch.full((size, max(int(counts.max()), 1)), -1, dtype=torch.int64)
    table[held, rank] = sort[order]
    return torch.unique(table, dim=0, return_inverse=True)[1]


def compact(labels: torch.Tensor) -> torch.Tensor:
    """Labels with size 1 along each axis on which they do not vary."""
    for axis, size in enumerate(labels.shape):
        if size > 1:
            first = labels.narrow(axis, 0, 1)
            if labels.stride(axis) == 0 or bool((labels == first).all()):
                labels = first
    return labels


def joined(kind: Kind, actions: Sequence[Action]) -> Action:
    """What several actions of one value say together.

    Where coordinates are mixed, places that one leaves as they are may be known from another; if
    both know a place, the first counts.
    """
    first = actions[0]
    labels = first.labels
    for other in actions[1:] if kind in MIXING else ():
        if other.power == first.power or kind is Kind.ORTHOGONAL:
            labels = torch.where(labels < 0, other.labels, labels)
    return first if labels is first.labels else Action(compact(labels), first.power)


Ties: TypeAlias = "list[tuple[torch.Tensor, torch.Tensor]]"


def shared(action: Action, axes: Sequence[int], kind: Kind) -> tuple[torch.Tensor, Ties]:
    """The labels of a parameter that lacks these axes, one for all positions along them; and which
    coordinates must therefore change alike."""
    first = action.labels
    for axis in axes:
        first = first.narrow(axis, 0, 1)
    left, right = (side.flatten() for side in torch.broadcast_tensors(first, action.labels))
    if kind in MIXING and not torch.equal(left < 0, right < 0):
        raise Stop("one parameter serves channels that change and channels that do not")
    return first, [] if torch.equal(left, right) else [(left, right)]


def side_by_side(some: torch.Tensor, others: torch.Tensor) -> Ties:
    """The ties between what two values hold of coordinates, where places of the one meet those of
    the other and say otherwise."""
    left, right = (side.flatten() for side in torch.broadcast_tensors(some, others))
    both = (left >= 0) & (right >= 0)
    left, right = left[both], right[both]
    return [] if torch.equal(left, right) else [(left, right)]


def beside(
    call: Call, out: Action, rest: Sequence[int], along: Sequence[int]
) -> list[torch.Tensor]:
    """The cells of a result of which an operand varies along only some of the labelled axes, and
    is left as it is: no place moves along these.

    Args:
        rest: The labelled axes along which it does not vary.
        along: Those along which it does.
    """
    if not set(rest) & set(Action(compact(filled(out.labels))).axes):
        raise Stop("an operand has one value for channels that change and channels that do not")
    return call.within(out, along)


def filled(labels: torch.Tensor) -> torch.Tensor:
    """Labels extended over places that stay as they are, along axes on which they do not vary."""
    for axis in range(labels.dim()):
        whole = labels.amax(axis, keepdim=True).expand(labels.shape)
        if bool(((labels == whole) | (labels < 0)).all()):
            labels = whole
    return labels


def align(action: Action, shape: tuple[int, ...], *, stretch: bool = False) -> Action | None:
    """The action of a broadcast result on an operand of this shape; ``None`` if the operand is
    constant over the labels.

    With ``stretch`` an operand that does not vary where the labels do may be made to (a parameter
    can).
    """
    labels = action.labels
    while labels.dim() > len(shape):
        if labels.shape[0] != 1:
            if not stretch:
                return None if not varies(labels, shape) else _cannot(shape)
            break
        labels = labels[0]
    while labels.dim() < len(shape):
        labels = labels[None]
    if not stretch and any(n > 1 and m == 1 for n, m in zip(labels.shape, shape, strict=True)):
        if all(m == 1 for n, m in zip(labels.shape, shape, strict=True) if n > 1):
            return None
        _cannot(shape)
    return Action(labels, action.power)


def varies(labels: torch.Tensor, shape: tuple[int, ...]) -> bool:
    """Whether an operand of this shape varies along some labelled axis."""
    pairs = zip(reversed(labels.shape), reversed(shape), strict=False)
    return any(n > 1 and m > 1 for n, m in pairs)


def _cannot(shape: tuple[int, ...]) -> None:
    raise Stop(f"an operand of shape {list(shape)} varies along only a part of the labelled axes")


def widen(action: Action, shape: tuple[int, ...]) -> Action:
    """The action of a broadcast operand on the result of this shape."""
    labels = action.labels
    while labels.dim() < len(shape):
        labels = labels[None]
    return Action(labels, action.power)


def rows_of(labels: torch.Tensor, kept: Sequence[int]) -> torch.Tensor:
    """Labels as a matrix: a row for each position on the kept axes."""
    rest = [axis for axis in range(labels.dim()) if axis not in kept]
    count = 1
    for axis in kept:
        count *= labels.shape[axis]
    return labels.permute(*kept, *rest).reshape(count, -1)


def is_param(call: Call, port: Port) -> bool:
    node = call.node.args[port[0]] if port else None
    return getattr(node, "op", "") == "param"


def on_result(call: Call, ignore: Port | None = None) -> Action:
    """The action on the result of a broadcasting op, known there or at an operand."""
    known = {port: action for port, action in call.known.items() if port != ignore}
    if not known:
        raise Stop("a mask is acted on")
    first = sorted(known, key=lambda port: port != OUT)
    return joined(call.kind, [widen(known[port], call.shapes[OUT]) for port in first])
