"""Ops that give several values, or the greatest of all, as those that give one of them.

getitem(max(x, d), 0)                ->  amax(x, d)
getitem(max(x, d), 1)                ->  argmax(x, d)
max(x)                               ->  amax(x)
getitem(adaptive_max_pool(x), 0)     ->  max_pool(x), or c.adaptive_max_pool(x)
getitem(max_pool_with_indices(x), 0) ->  max_pool(x)
"""

from __future__ import annotations

from typing import TypeAlias

from ...ir import Graph, Node
from ...ir.graph import Arg

_Form: TypeAlias = "tuple[str, dict[str, Arg]]"
_EXTREMES = {"aten.max.default": "amax", "aten.min.default": "amin"}


def fuse(graph: Graph) -> None:
    """Bring a graph to these forms."""
    for node in list(graph.nodes):
        form, source = None, node
        if node.op in _EXTREMES and len(node.args) == 1:
            form = _EXTREMES[node.op], {}
        elif node.op == "getitem":
            source = node.args[0]
            form = _one(source, node.args[1], node)
        if form is not None:
            op, attrs = form
            data = source.args[0]
            new = graph.add(op, data, type=node.type, where=source.where, before=node, **attrs)
            graph.supersede(node, new)
    graph.prune()


def _one(source: Node, index: Arg, node: Node) -> _Form | None:
    match source.op, index:
        case (("aten.max.dim" | "aten.min.dim"), 0):
            dim = source.attrs["dim"]
            attrs = {**source.attrs, "dim": (dim,)}
            return ("amax" if "max" in source.op else "amin"), attrs
        case "aten.max.dim", 1:
            return "argmax", dict(source.attrs)
        case (("aten.adaptive_max_pool1d.default" | "aten.adaptive_max_pool2d.default"), 0):
            return _adaptive(source, node)
        case (("aten.max_pool1d_with_indices.default" | "aten.max_pool2d_with_indices.default"), 0):
            return source.op.split(".")[1].removesuffix("_with_indices"), dict(source.attrs)
        case _:
            return None


def _adaptive(source: Node, node: Node) -> _Form | None:
    """One window that moves, where those that share the image out are of one size."""
    given, wanted = source.args[0].shape[2:], node.shape[2:]
    if not all(isinstance(size, int) for size in (*given, *wanted)):
        return None
    pairs = [(int(a), int(b)) for a, b in zip(given, wanted, strict=True)]
    if any(size % want for size, want in pairs):
        return "c.adaptive_max_pool", {}
    kernel = tuple(size // want for size, want in pairs)
    return f"max_pool{len(pairs)}d", {"kernel_size": kernel, "stride": kernel}
