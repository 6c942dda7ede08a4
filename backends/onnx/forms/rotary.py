"""Rotary positions as one op.

    x * cos + cat((-x[..., d/2:], x[..., :d/2])) * sin   ->  ort.rotary(x, cos, sin)

where both halves of ``cos`` and of ``sin`` are the same, and on the heads side by side where they
were split from there, so that the split comes after and can be left to the attention.
"""

from __future__ import annotations

from typing import Any

import torch

from ....ir import Graph, Node
from .heads import side_by_side, strip, swapped


def fuse(graph: Graph) -> None:
    for node in list(graph.nodes):
        if node.op == "add" and not node.attrs and len(node.shape) == 4:
            found = _rotation(node)
            if found is not None:
                _fuse(graph, node, *found)


def _rotation(node: Node) -> tuple[Node, Node, Node] | None:
    """``x, cos, sin`` of ``x cos + rotate(x) sin``."""
    match node.args:
        case (Node("mul", (Node(), Node())) as first, Node("mul", (Node(), Node())) as second):
            pass
        case _:
            return None
    for plain, turned in ((first, second), (second, first)):
        for rotated, sin in (turned.args, turned.args[::-1]):
            x = _rotated(rotated)
            if x is not None and x.shape == node.shape and x in plain.args:
                cos = plain.args[1] if plain.args[0] is x else plain.args[0]
                return x, cos, sin
    return None


def _rotated(node: Node) -> Node | None:
    """``x`` where the node is ``cat((-x2, x1))``."""
    match node:
        case Node(
            "cat",
            (
                (
                    Node("neg", (Node("slice", (Node() as x,)) as upper,)),
                    Node("slice", (Node() as y,)) as lower,
                ),
            ),
        ):
            pass
        case _:
            return None
    axis, width = len(x.shape) - 1, x.shape[-1]
    if x is not y or not isinstance(width, int) or node.attrs.get("dim", 0) % len(x.shape) != axis:
        return None
    half = width // 2
    fits = _bounds(lower, axis) == (0, half) and _bounds(upper, axis) == (half, width)
    return x if fits and 2 * half == width else None


def _bounds(node: Node, axis: int) -> tuple[Any, Any] | None:
    """Where a slice of step 1 along the axis begins and ends."""
    attrs = node.attrs
    rank, width = len(node.shape), node.args[0].shape[-1]
    if attrs.get("dim", 0) % rank != axis or attrs.get("step", 1) != 1:
        return None
    start, end = attrs.get("start") or 0, attrs.get("end")
    end = width if end is None else end
    if not isinstance(start, int) or not isinstance(end, int):
        return None
    return start % width if start < 0 else start, min(end, width) if end >= 0 else end + width


def _fuse(graph: Graph, node: Node, x: Node, cos: Node, sin: Node) -> None:
    tables = [_table(graph, table, x, node) for table in (cos, sin)]
    if any(table is None for table in tables):
        return
    if swapped(strip(x)) is None:
        new = graph.add(
            "ort.rotary", x, *tables, heads=0, type=node.type, where=node.where, before=node
        )
    else:
        wide = side_by_side(graph, x, node)
        heads = int(x.shape[1])
        turned = graph.add(
            "ort.rotary", wide, *tables, heads=heads, type=wide.type, where=node.where, before=node
        )
        new = graph.add("ort.split_heads", turned, heads=heads, type=node.type, before=node)
    graph.supersede(node, new)


def _table(graph: Graph, value: Node, x: Node, before: Node) -> Node | None:
    """A table ``[1 or B, S, D]`` that broadcasts over the heads, if its halves are the same."""
    shape = (*[1] * (4 - len(value.shape)), *value.shape)
    fits = shape[0] in (1, x.shape[0]) and shape[1:] == (1, *x.shape[2:])
    if not fits or not _twice(graph, value):
        return None
    match value:
        case Node("unsqueeze", (Node() as table,)) if len(table.shape) == 3:
            return table
        case _ if len(value.shape) == 4:
            return graph.add("squeeze", value, dim=1, type=_type(value, shape), before=before)
        case _ if len(value.shape) == 2:
            return graph.add("unsqueeze", value, dim=0, type=_type(value, shape), before=before)
        case _:
            return value


def _type(value: Node, shape: tuple[Any, ...]) -> Any:
    return type(value.tensor)(value.dtype, (shape[0], *shape[2:]))


_BY_POSITION = {"cos", "sin", "to", "clone", "contiguous", "neg"}
_BEFORE_LAST = {"unsqueeze", "slice", "expand", "select", "embedding", "index", "index_select"}


def _twice(graph: Graph, node: Node) -> bool:
    """Whether both halves of the last axis are the same, as far as can be told."""
    if node.op == "param":
        first, second = graph.value(node).chunk(2, dim=-1)
        return torch.equal(first, second)
    source = node.args[0] if node.args else None
    match node:
        case Node("cat", ((Node() as first, Node() as second),)):
            return (
                first is second
                and node.attrs.get("dim", 0) % len(node.shape) == len(node.shape) - 1
            )
        case Node("mul" | "div", (Node() as table, int() | float())):
            return _twice(graph, table)
        case Node(op) if op in _BY_POSITION and isinstance(source, Node):
            return _twice(graph, source)
        case Node(op) if op in _BEFORE_LAST and isinstance(source, Node):
            same = len(source.shape) > 0 and source.shape[-1] == node.shape[-1]
            return (
                same
                and node.attrs.get("dim") not in (-1, len(source.shape))
                and _twice(graph, source)
            )
        case _:
            return False
