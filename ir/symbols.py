"""Symbols among the sizes of a graph's values: renamed, and spelled out for ops that take sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .graph import Arg, Graph, Node
from .types import Dim, TensorType, Type


def rename(graph: Graph, names: Mapping[str, str]) -> None:
    """Call each symbol by its new name, wherever a type or a range speaks of it; in place."""
    if not names:
        return
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")

    def size(old: Dim) -> Dim:
        return pattern.sub(lambda m: names[m[1]], old) if isinstance(old, str) else old

    def renamed(type_: Type) -> Type:
        if isinstance(type_, tuple):
            return tuple(renamed(part) for part in type_)
        if isinstance(type_, TensorType):
            return TensorType(type_.dtype, tuple(size(s) for s in type_.shape))
        return type_

    for node in (*graph.inputs, *graph.nodes):
        node.type = renamed(node.type)
    graph.symbols = {names.get(s, s): limits for s, limits in graph.symbols.items()}


def spelled_out(
    graph: Graph, shape: Sequence[Dim], like: Node, before: Node | None = None
) -> tuple[Arg, ...]:
    """Sizes as a reshape takes them: one symbol is left open, of several each is asked for.

    Args:
        shape: The sizes; a symbol is at the same place as in the shape of ``like``.
        like: A value to ask.
        before: Where ops that ask go; to the end, if not given.
    """
    open_ = [axis for axis, size in enumerate(shape) if not isinstance(size, int)]
    if len(open_) == 1:
        return tuple(-1 if axis in open_ else size for axis, size in enumerate(shape))
    return tuple(
        size
        if isinstance(size, int)
        else graph.add("sym_size", like, dim=axis, name=f"{like.name}_size", before=before,
                       where=like.where)
        for axis, size in enumerate(shape)
    )  # fmt: skip
