"""Rename the symbols of a graph's sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .graph import Graph
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
