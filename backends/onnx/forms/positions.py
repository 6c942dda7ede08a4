"""Which keys a query may see, where positions alone decide, of queries that follow a past.

    k <= past + q                        all that came before, and itself
    and  k > past + q - w                of these, the last w

A mask is a conjunction of conditions ``constant + a past + b q + c k >= 0``, in whatever order and
shape they are computed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ....ir import Graph, Node, ScalarType
from ....ir.graph import Arg

LOWEST = -1e30  # what is added to scores that do not count, or less


@dataclass(frozen=True)
class Position:
    """``constant + past * (tokens of the past) + sum of strides * position``.

    A condition is one that must not be negative.
    """

    constant: int
    past: int
    strides: tuple[int, ...]

    def aligned(self, rank: int) -> Position:
        """The same, broadcast to more axes."""
        return replace(self, strides=(0,) * (rank - len(self.strides)) + self.strides)

    def plus(self, other: Position, factor: int = 1) -> Position:
        rank = max(len(self.strides), len(other.strides))
        pairs = zip(self.aligned(rank).strides, other.aligned(rank).strides, strict=True)
        return Position(
            self.constant + factor * other.constant,
            self.past + factor * other.past,
            tuple(x + factor * y for x, y in pairs),
        )

    def lifted(self, dim: int) -> Position:
        """With a new axis."""
        return replace(self, strides=(*self.strides[:dim], 0, *self.strides[dim:]))


_Conditions = frozenset[Position]


def window(mask: Arg, past: str, graph: Graph) -> int | None:
    """How many of the last keys a mask shows, 0 for all; ``None`` where it is another mask.

    Args:
        past: The symbol of how many tokens there are before the first query.
        graph: Where the mask is computed.
    """
    found = _allowed(mask, past, graph)
    if found is None or not isinstance(mask, Node):
        return None
    rank = max((len(p.strides) for p in found), default=0)
    if rank < 2:
        return None
    step = 0 if mask.shape[-2] == 1 else 1  # of positions from query to query
    rest = {_without(p.aligned(rank), step) for p in found} - {_seen(0, 1, rank, step)}
    if len(rest) == len(found):
        return None
    if not rest:
        return 0
    (near,) = rest if len(rest) == 1 else (None,)
    width = 0 if near is None else near.constant + 1
    is_window = near == _seen(width - 1, -1, rank, step)
    return width if is_window and width >= 1 else None


def _seen(constant: int, sign: int, rank: int, step: int) -> Position:
    """``constant + sign (past + q - k)``, of queries that are so far apart."""
    return Position(constant, sign, (*(0,) * (rank - 2), sign * step, -sign))


def _without(position: Position, step: int) -> Position:
    """The same without the axis of queries where there is one query."""
    *others, query, key = position.strides
    return replace(position, strides=(*others, query * step, key))


def _allowed(mask: Arg, past: str, graph: Graph) -> _Conditions | None:
    """When a key counts; a mask of numbers adds 0 then, and else what leaves no weight."""
    match mask:
        case Node("le" | "lt" | "ge" | "gt", (left, right)):
            low, high = (left, right) if mask.op in ("le", "lt") else (right, left)
            first, second = _position(low, past, graph), _position(high, past, graph)
            if first is None or second is None:
                return None
            strict = Position(-1 if mask.op in ("lt", "gt") else 0, 0, ())
            return frozenset({second.plus(first, -1).plus(strict)})
        case Node("logical_and", (left, right)):
            both = _allowed(left, past, graph), _allowed(right, past, graph)
            return None if both[0] is None or both[1] is None else both[0] | both[1]
        case Node("where", (condition, yes, no)) if _is_zero(yes) and _is_lowest(no):
            return _allowed(condition, past, graph)
        case Node("unsqueeze", (inner,)):
            found = _allowed(inner, past, graph)
            dim = int(mask.attrs["dim"]) % len(mask.shape)
            return found and frozenset(p.lifted(dim) for p in found)
        case Node("expand", (inner,)):
            return _allowed(inner, past, graph)
        case _:
            return None


def _position(value: Arg, past: str, graph: Graph) -> Position | None:
    match value:
        case int():
            return Position(value, 0, ())
        case Node("param") if _whole(value) and {1}.issuperset(value.shape):
            return Position(int(graph.value(value)), 0, (0,) * len(value.shape))
        case Node("sym_size", (Node() as source,)):
            return Position(0, 1, ()) if source.shape[value.attrs["dim"]] == past else None
        case Node("arange") if not value.args and value.attrs.get("step", 1) == 1:
            start = _position(value.attrs.get("start", 0), past, graph)
            return start and start.plus(Position(0, 0, (1,)))
        case Node("add" | "sub" | "int_add" | "int_sub", (left, right)) if not value.attrs:
            first, second = _position(left, past, graph), _position(right, past, graph)
            if first is None or second is None:
                return None
            return first.plus(second, 1 if value.op in ("add", "int_add") else -1)
        case Node("unsqueeze", (inner,)):
            found = _position(inner, past, graph)
            return found and found.lifted(int(value.attrs["dim"]) % len(value.shape))
        case Node("expand", (inner,)):
            return _position(inner, past, graph)
        case Node("to", (Node() as inner,)) if _whole(inner) and _whole(value):
            return _position(inner, past, graph)
        case _:
            return None


def _whole(node: Node) -> bool:
    return not isinstance(node.type, ScalarType) and node.dtype in (torch.int64, torch.int32)


def _number(arg: Arg) -> float | None:
    if isinstance(arg, Node) and arg.op == "full":
        arg = arg.attrs["fill_value"]
    return float(arg) if isinstance(arg, (int, float)) else None


def _is_zero(arg: Arg) -> bool:
    return _number(arg) == 0


def _is_lowest(arg: Arg) -> bool:
    value = _number(arg)
    return value is not None and value <= LOWEST
