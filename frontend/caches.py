"""Caches of keys and values as inputs and outputs: how transformers' are taken apart.

A ``DynamicCache`` is a tuple with ``(keys, values)`` for each layer, all ``[batch, heads, tokens,
channels]``. So ``dynamic_shapes`` for it is a tuple of pairs, and a graph has each tensor as an
input and, with the fresh tokens at its end, as an output.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ..ir import InputError


def register_caches() -> None:
    """Let pytrees take caches apart, where transformers is in use."""
    library: Any = sys.modules.get("transformers")
    if library is None:
        return
    kind = library.DynamicCache
    if kind in pytree.SUPPORTED_NODES:
        return
    pytree.register_pytree_node(
        kind,
        _taken_apart,
        _put_together,
        serialized_type_name=f"{kind.__module__}.{kind.__qualname__}",
        flatten_with_keys_fn=_with_keys,
    )


def _taken_apart(cache: Any) -> tuple[list[Any], None]:
    return [_pair(layer) for layer in cache.layers], None


def _with_keys(cache: Any) -> tuple[list[tuple[Any, Any]], None]:
    pairs, context = _taken_apart(cache)
    return [(pytree.SequenceKey(index), pair) for index, pair in enumerate(pairs)], context


def _pair(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    from transformers.cache_utils import DynamicLayer

    if type(layer) is not DynamicLayer:
        raise InputError(
            f"a cache has a {type(layer).__name__}, and only those that keep all tokens can be "
            "inputs of a graph",
            do="pass DynamicCache() with layers that grow, or use_cache=False",
        )
    if layer.keys is None or layer.values is None:
        raise InputError(
            "a layer of the cache is empty: its shapes are not known",
            do="fill it by calling the model once with use_cache=True, or leave it out",
        )
    return layer.keys, layer.values


def _put_together(pairs: Iterable[Any], context: None) -> Any:
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache()
    for keys, values in pairs:
        layer = DynamicLayer()
        layer.keys, layer.values, layer.is_initialized = keys, values, True
        if isinstance(keys, torch.Tensor):
            layer.dtype, layer.device = keys.dtype, keys.device
        cache.layers.append(layer)
    return cache
