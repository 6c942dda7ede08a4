"""The same graph in another floating-point dtype."""

from __future__ import annotations

import torch

from .graph import Arg, Graph
from .params import Lazy
from .types import TensorType, Type

_COMPLEX = {torch.float64: torch.complex128}  # else complex64: few ops know halves


def astype(graph: Graph, dtype: torch.dtype) -> Graph:
    """A copy that computes in ``dtype``: parameters, inputs, and casts between floating-point
    dtypes; complex numbers have parts of that dtype.

    Parameters that are still on disk stay there and are converted as they are read; so are those
    that float64 would be a wider form of, which is no second copy of them then.
    """
    new = graph.copy()
    for name in list(new.params):
        old = new.store.type(name)
        type_ = TensorType(convert_dtype(old.dtype, dtype), old.shape)
        if type_ != old:
            new.store[name] = _converted(new.store.tensors[name], type_)
    for node in (*new.inputs, *new.params.values(), *new.nodes):
        node.type = _convert(node.type, dtype)
        node.set(None, {key: convert_attr(value, dtype) for key, value in node.attrs.items()})
    new.enter = None if new.enter is None else astype(new.enter, dtype)
    new.leave = None if new.leave is None else astype(new.leave, dtype)
    return new


def _converted(value: torch.Tensor | Lazy, type_: TensorType) -> torch.Tensor | Lazy:
    wide = type_.dtype in (torch.float64, torch.complex128)
    if isinstance(value, Lazy) and value.exact is not None and wide:
        return Lazy(type_, value.exact)
    if isinstance(value, Lazy) and value.narrow is not None and value.narrow.dtype == type_.dtype:
        return value.narrow
    if isinstance(value, Lazy):
        read = value.read
        return Lazy(type_, lambda: read().to(type_.dtype))
    if wide:
        return Lazy(type_, lambda: value.to(type_.dtype), narrow=value)
    return value.to(type_.dtype)


def _convert(type_: Type, dtype: torch.dtype) -> Type:
    if isinstance(type_, tuple):
        return tuple(_convert(part, dtype) for part in type_)
    if isinstance(type_, TensorType):
        return TensorType(convert_dtype(type_.dtype, dtype), type_.shape)
    return type_


def convert_attr(value: Arg, dtype: torch.dtype) -> Arg:
    """An attribute in the other dtype."""
    return convert_dtype(value, dtype) if isinstance(value, torch.dtype) else value


def convert_dtype(old: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """What a dtype becomes where floating-point numbers become ``dtype``."""
    if old.is_complex:
        return _COMPLEX.get(dtype, torch.complex64)
    return dtype if old.is_floating_point else old
