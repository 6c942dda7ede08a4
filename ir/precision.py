"""The same graph in another floating-point dtype."""

from __future__ import annotations

import torch

from .graph import Arg, Graph
from .params import Lazy
from .types import TensorType, Type


def astype(graph: Graph, dtype: torch.dtype) -> Graph:
    """A copy that computes in ``dtype``: parameters, inputs, and casts between floating-point
    dtypes.

    Parameters that are still on disk stay there and are converted as they are read.
    """
    new = graph.copy()
    for name in list(new.params):
        old = new.store.type(name)
        if old.dtype.is_floating_point and old.dtype != dtype:
            new.store[name] = _converted(new.store.tensors[name], TensorType(dtype, old.shape))
    for node in (*new.inputs, *new.params.values(), *new.nodes):
        node.type = _convert(node.type, dtype)
        node.set(None, {key: convert_attr(value, dtype) for key, value in node.attrs.items()})
    return new


def _converted(value: torch.Tensor | Lazy, type_: TensorType) -> torch.Tensor | Lazy:
    if isinstance(value, Lazy) and value.exact is not None and type_.dtype == torch.float64:
        return Lazy(type_, value.exact)
    if isinstance(value, Lazy):
        read = value.read
        return Lazy(type_, lambda: read().to(type_.dtype))
    return value.to(type_.dtype)


def _convert(type_: Type, dtype: torch.dtype) -> Type:
    if isinstance(type_, tuple):
        return tuple(_convert(part, dtype) for part in type_)
    if isinstance(type_, TensorType) and type_.dtype.is_floating_point:
        return TensorType(dtype, type_.shape)
    return type_


def convert_attr(value: Arg, dtype: torch.dtype) -> Arg:
    """An attribute in the other dtype."""
    return dtype if isinstance(value, torch.dtype) and value.is_floating_point else value
