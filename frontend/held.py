"""The tensors in an object of a model's own, wherever they lie, and the same object around others.

    cache.layers[0].conv_states[0]     is held as     "layers.0.conv_states.0"

Lists, tuples, dicts and the attributes of objects are looked through; what holds no tensor, such as
a configuration, stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, cast

import torch

from ..ir import TraceError


def tensors(value: Any) -> dict[str, torch.Tensor]:
    """The tensors held, by their places."""
    return {path: leaf for path, leaf in _leaves(value) if isinstance(leaf, torch.Tensor)}


def numbers(value: Any) -> dict[str, float]:
    """The numbers beside these tensors, by their places; flags are none."""
    return {
        path: leaf
        for path, leaf in _leaves(value)
        if isinstance(leaf, (int, float)) and not isinstance(leaf, bool)
    }


def holding(value: Any, others: Mapping[str, Any]) -> Any:
    """The same object around other tensors, by their places; the given one stays as it is."""
    return _around(value, others, "")


def _around(value: Any, others: Mapping[str, Any], path: str) -> Any:
    if isinstance(value, torch.Tensor):
        return others[path]
    if not _holds(value, ()):
        return value
    made = {key: _around(part, others, _joined(path, key)) for key, part in _parts(value)}
    if isinstance(value, tuple):
        kind: Any = type(cast("tuple[Any, ...]", value))
        return kind(*made.values()) if hasattr(kind, "_fields") else kind(made.values())
    if isinstance(value, list):
        return list(made.values())
    new = copy.copy(value)
    (new if isinstance(new, dict) else vars(new)).update(made)
    return new


def _leaves(value: Any, path: str = "", around: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    if id(value) in around:
        raise TraceError(
            f"{path} of what the model keeps refers to what it lies in",
            do="compile the model without cache=True",
        )
    if isinstance(value, torch.Tensor) or not _holds(value, ()):
        yield path, value
        return
    for key, part in _parts(value):
        yield from _leaves(part, _joined(path, key), (*around, id(value)))


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """What is right inside a value, by key, index or attribute; nothing in what is whole."""
    if isinstance(value, dict):
        yield from cast("dict[Any, Any]", value).items()
    elif isinstance(value, (list, tuple)):
        yield from enumerate(cast("list[Any]", value))
    elif hasattr(value, "__dict__") and not isinstance(value, (torch.nn.Module, type, ModuleType)):
        yield from vars(value).items()


def _holds(value: Any, around: tuple[int, ...]) -> bool:
    """Whether there is a tensor in a value."""
    if isinstance(value, torch.Tensor):
        return True
    inside = (*around, id(value))
    return id(value) not in around and any(_holds(part, inside) for _, part in _parts(value))


def _joined(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
