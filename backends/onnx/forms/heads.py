"""Values with their heads apart, ``[B, H, S, D]``, and side by side, ``[B, S, H*D]``."""

from __future__ import annotations

from ....ir import Graph, Node, TensorType

RESHAPES = {"reshape", "aten.view.default", "aten._unsafe_view.default"}


def strip(node: Node) -> Node:
    """The value behind nodes that change nothing."""
    while True:
        match node:
            case Node("clone" | "contiguous", (Node() as inner,)):
                node = inner
            case Node("slice" | "expand", (Node() as inner,)) if inner.shape == node.shape and (
                node.attrs.get("start") in (0, None)
                and not isinstance(node.attrs.get("end"), Node)
                and node.attrs.get("step", 1) == 1
            ):
                node = inner
            case Node(op, (Node() as inner,)) if op in RESHAPES and inner.shape == node.shape:
                node = inner
            case _:
                return node


def swapped(node: Node) -> Node | None:
    """``y`` where the node is ``y`` with axes 1 and 2 of four exchanged."""
    if len(node.shape) != 4:
        return None
    match node:
        case Node("transpose", (Node() as inner,)):
            dims = {int(node.attrs["dim0"]) % 4, int(node.attrs["dim1"]) % 4}
            return inner if dims == {1, 2} else None
        case Node("permute", (Node() as inner,)):
            dims = tuple(dim % 4 for dim in node.attrs["dims"])
            return inner if dims == (0, 2, 1, 3) else None
        case _:
            return None


def side_by_side(graph: Graph, node: Node, before: Node) -> Node:
    """``[B, S, H*D]`` of a value ``[B, H, S, D]``: what it was split from, or a new node."""
    inner = strip(node)
    if inner.op == "ort.split_heads":
        return inner.args[0]
    rows = swapped(inner)
    if rows is not None:
        rows = strip(rows)
        source = rows.args[0] if rows.op in RESHAPES else rows
        merged = _merged(rows)
        if source.shape == merged.shape:
            return source
        return graph.add("aten.flatten.using_ints", rows, start_dim=2, type=merged, before=before)
    batch, heads, length, width = inner.shape
    type_ = TensorType(node.dtype, (batch, length, int(heads) * int(width)))
    return graph.add("ort.merge_heads", inner, type=type_, before=before)


def _merged(rows: Node) -> TensorType:
    batch, length, heads, width = rows.shape
    return TensorType(rows.dtype, (batch, length, int(heads) * int(width)))


def is_split(node: Node) -> bool:
    """Whether nothing is moved to have the value's heads side by side."""
    inner = strip(node)
    return inner.op == "ort.split_heads" or swapped(inner) is not None


def ungrouped(node: Node) -> Node:
    """The keys or values of a grouped-query attention before they are repeated for the heads."""
    inner = strip(node)
    match inner:
        case Node("repeat_interleave", (Node() as source,)) if inner.attrs.get("dim") in (1, -3):
            return source if isinstance(inner.attrs["repeats"], int) else inner
        case Node(op, (Node() as wide,)) if op in RESHAPES and len(inner.shape) == 4:
            match strip(wide):
                case Node("expand", (Node("unsqueeze", (Node() as source,)) as lifted,)) if (
                    len(source.shape) == 4
                    and lifted.shape == (*source.shape[:2], 1, *source.shape[2:])
                    and wide.shape[:2] == source.shape[:2]
                    and wide.shape[3:] == source.shape[2:] == inner.shape[2:]
                ):
                    return source
                case _:
                    return inner
        case _:
            return inner
