"""Symbolic sizes get the user's names: ``Dim("batch")`` is ``batch`` in the graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils import _pytree as pytree

from ..ir import Graph, TensorType
from ..ir.symbols import rename


def name_symbols(
    graph: Graph,
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    shapes: Any,
) -> None:
    """Rename the symbols of the graph's inputs by the names in ``dynamic_shapes``.

    A size that PyTorch found to be an expression of others keeps that expression.
    """
    wanted = list(_specs(forward, args, kwargs, shapes))
    if len(wanted) != len(graph.inputs):
        return
    names: dict[str, str] = {}
    for node, spec in zip(graph.inputs, wanted, strict=True):
        if not isinstance(node.type, TensorType) or not isinstance(spec, (dict, list, tuple)):
            continue
        for axis, given in spec.items() if isinstance(spec, dict) else enumerate(spec):
            size, name = node.type.shape[axis], getattr(given, "__name__", "")
            if isinstance(size, str) and size.isidentifier() and name.isidentifier():
                names.setdefault(size, name)
    taken = set(graph.symbols) - set(names)
    if len(set(names.values())) == len(names) and not taken & set(names.values()):
        rename(graph, names)


def _specs(
    forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], shapes: Any
) -> Iterator[Any]:
    """What ``dynamic_shapes`` says of each flat input in turn; ``None`` where it is silent."""
    names = [*inspect.signature(forward).parameters][: len(args)]
    values = [*args, *kwargs.values()]
    if isinstance(shapes, Mapping):
        given = [shapes.get(name) for name in (*names, *kwargs)]
    elif isinstance(shapes, (list, tuple)):
        given = list(shapes)
    else:
        return
    for value, spec in zip(values, given, strict=False):
        yield from _aligned(value, spec)


def _aligned(value: Any, spec: Any) -> Iterator[Any]:
    """The specification of each leaf of a nested value."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _aligned(part, spec.get(key) if isinstance(spec, Mapping) else None)
        return
    parts = pytree.tree_leaves(value, is_leaf=lambda part: part is not value)
    if len(parts) == 1 and parts[0] is value:
        yield spec
        return
    inner = spec if isinstance(spec, (list, tuple)) else [None] * len(parts)
    for part, its in zip(parts, inner, strict=True):
        yield from _aligned(part, its)
