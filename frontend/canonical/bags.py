"""Bags of equally many rows of a table are a look-up and a reduction over each bag.

    embedding_bag(W, i, offsets)             ->  sum(embedding(W, i'), dim=1), or mean, or amax
    embedding_bag(W, i, offsets, weights=w)  ->  sum(mul(embedding(W, i'), w'), dim=1)

with i' of ``[bags, p]`` where the offsets are 0, p, 2p, ... and the last bag has p rows as well:
what is made of a two-dimensional input. Bags of other sizes, bags that leave out a padding, and
offsets that only a run tells stay as they are.
"""

from __future__ import annotations

import torch

from ...ir import Node
from ...ir.graph import Arg
from ...ir.types import Dim
from .rewrite import At, Rules, on, operand, sizes

_BAGS = ("aten.embedding_bag.padding_idx", "aten.embedding_bag.default")
_REDUCTIONS = ("sum", "mean", "amax")  # by the number of the mode


def _look_up(node: Node, at: At) -> Node | None:
    source, index = node.args
    if not isinstance(source, Node) or source.op not in _BAGS or index != 0:
        return None
    if source.attrs.get("padding_idx") is not None:
        return None
    table, indices, offsets = source.args[:3]
    bags, size = sizes(node)[0], _size(source, offsets, at)
    rows = None if size is None else _in_bags(indices, bags, size, at)
    if rows is None or size is None:
        return None
    found = at("embedding", table, rows)
    if (weights := operand(source, 3)) is not None:
        factors = _in_bags(weights, bags, size, at)
        if factors is None:
            return None
        found = at("mul", found, at("unsqueeze", factors, dim=2))
    return at.instead(_REDUCTIONS[source.attrs.get("mode", 0)], found, dim=(1,))


def _size(bag: Node, offsets: Arg, at: At) -> int | None:
    """How far offsets are apart; nothing where that differs, or is not known."""
    match offsets:
        case Node("arange") if offsets.attrs.get("start", 0) == 0:
            step = offsets.attrs.get("step", 1)
            return step if isinstance(step, int) else None
        case Node("param"):
            starts = at.graph.value(offsets)
        case _:
            return None
    count = sizes(bag.args[1])[0]
    if len(starts) > 1:
        step = int(starts[1] - starts[0])
    elif isinstance(count, int):
        step = count
    else:
        return None
    even = torch.arange(len(starts), dtype=starts.dtype) * step
    return step if torch.equal(starts, even) else None


def _in_bags(value: Arg, bags: Dim, size: int, at: At) -> Node | None:
    """What stands in a row as ``[bags, size]``; nothing where it is more or less."""
    (count,) = sizes(value)
    if isinstance(count, int):
        fits = size > 0 and isinstance(bags, int) and count == bags * size
        return at("reshape", value, shape=(bags, size)) if fits else None
    match value:  # of a symbolic size: what was put in a row
        case Node("reshape", (Node() as source,)) if sizes(source) == (bags, size):
            return source
        case _:
            return None


RULES: Rules = on("getitem", _look_up)
