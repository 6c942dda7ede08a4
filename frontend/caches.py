"""Caches of keys and values as inputs and outputs: how transformers' are taken apart.

A ``DynamicCache`` is a tuple with ``(keys, values)`` for each layer, all ``[batch, heads, tokens,
channels]``. So ``dynamic_shapes`` for it is a tuple of pairs, and a graph has each tensor as an
input and, with the fresh tokens at its end, as an output.

``with_cache`` makes the call that takes token ids into one that takes a cache too, of any number of
tokens: one graph then reads a prompt and goes on from it. Layers that would forget what has left a
sliding window keep it here; their masks hide it.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ..ir import InputError, TraceError
from ..ir.errors import first_line

CACHE, USE_CACHE = "past_key_values", "use_cache"  # as every decoder of transformers calls them


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


# -- a call with a cache ---------------------------------------------------------------------------


@dataclass(frozen=True)
class CachedCall:
    """A call of a decoder that takes its cache and gives it back.

    Attributes:
        traced: Keyword arguments to trace with; no size among them is one that a trace would take
            for a constant.
        shapes: The ``dynamic_shapes`` that go with them: ``batch``, ``length`` of what is new, and
            ``past``.
        example: The user's own call, its first half in the cache.
    """

    traced: dict[str, Any]
    shapes: dict[str, Any]
    example: dict[str, Any]

    def within(self, error: TraceError) -> CachedCall | None:
        """The same with no greater sizes than PyTorch says that the model takes, as one with a
        table of positions; ``None`` where it says something else."""
        _, _, said = str(error.__cause__).partition("Suggested fixes:")
        lines = [line.strip() for line in said.splitlines() if " = " in line]
        bounds = [match for line in lines if (match := _BOUND.fullmatch(line))]
        if not lines or len(bounds) < len(lines):
            return None
        most = {match[1]: int(match[2]) for match in bounds}

        def bounded(size: Any) -> Any:
            name = getattr(size, "__name__", "")
            return torch.export.Dim(name, min=size.min, max=most[name]) if name in most else size

        return replace(self, shapes=pytree.tree_map(bounded, self.shapes))

    def taken_apart(self, model: torch.nn.Module) -> AbstractContextManager[None]:
        """Where the model takes and gives what it keeps as tensors, if pytrees do not see to it."""
        return nullcontext()


_BOUND = re.compile(r"(\w+) = Dim\('\w+'(?:, min=\d+)?, max=(\d+)\)")


def with_cache(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> CachedCall:
    """The call of a decoder on token ids as one with a cache.

    Args:
        args, kwargs: Example inputs: ids ``[batch, tokens]``, and constants.

    Raises:
        InputError: The model takes no cache, or the example holds other tensors than ids.
        TraceError: The model does not fill the cache of keys and values that it is given.
    """
    _check_takes_cache(model)
    name, ids, given = call_on_ids(model, args, kwargs)
    many = ids.repeat(2, -(-_TOKENS // ids.shape[1]))[:, :_TOKENS]
    batch, past = torch.export.Dim("batch", min=1), torch.export.Dim("past", min=0)
    length = torch.export.Dim("length", min=1)
    traced: dict[str, Any] = {
        name: many[:, _PAST:].contiguous(),
        **_cached(model, {**given, name: many}, _PAST),
        **given,
    }
    layers = len(traced[CACHE].layers)
    shapes = {
        **dict.fromkeys(traced),
        name: {0: batch, 1: length},
        CACHE: [({0: batch, 2: past}, {0: batch, 2: past})] * layers,
    }
    half = ids.shape[1] // 2
    example = {
        name: ids[:, half:].contiguous(),
        **_cached(model, {**given, name: ids}, half),
        **given,
    }
    return CachedCall(traced, shapes, example)


_TOKENS, _PAST = 7, 4  # in the cache and after it: neither is 0 or 1, and they differ


def _check_takes_cache(model: torch.nn.Module) -> None:
    parameters = inspect.signature(model.forward).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    if CACHE not in parameters or not (
        USE_CACHE in parameters or inspect.Parameter.VAR_KEYWORD in kinds
    ):
        raise InputError(
            f"the {type(model).__name__} takes no {CACHE}: it has no cache of keys and values",
            do="compile it without cache=True",
        )


def call_on_ids(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[str, torch.Tensor, dict[str, Any]]:
    """The argument of token ids, these ids ``[batch, tokens]``, and the other arguments.

    Raises:
        InputError: There is another tensor, or a cache.
    """
    given = _by_name(model, args, kwargs)
    tensors = [name for name, value in given.items() if isinstance(value, torch.Tensor)]
    if len(tensors) != 1 or given[tensors[0]].dim() != 2 or given[tensors[0]].is_floating_point():
        found = ", ".join(f"{name} {list(given[name].shape)}" for name in tensors) or "no tensor"
        raise InputError(
            f"a graph with a cache takes token ids [batch, tokens] alone, got {found}",
            do="give input_ids; all tokens of a prompt count, so masks have nothing to say",
        )
    return tensors[0], given.pop(tensors[0]), given


def _by_name(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments by name, without those of the cache."""
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise InputError(f"the example inputs do not fit the model: {error}") from None
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            bound |= bound.pop(name, {})
    if bound.pop(CACHE, None) is not None:
        raise InputError(
            f"{CACHE} is given, and cache=True fills one itself",
            do="leave it out, or leave out cache=True and say in dynamic_shapes what may vary",
        )
    bound.pop(USE_CACHE, None)
    return bound


def _cached(model: torch.nn.Module, call: dict[str, Any], tokens: int) -> dict[str, Any]:
    """The arguments for a cache that holds the first tokens of a call."""
    library: Any = sys.modules.get("transformers")
    if library is None:
        raise InputError(f"the {type(model).__name__} is no model of transformers")
    register_caches()
    cache = library.DynamicCache()
    try:
        with torch.no_grad():
            found = model(**{**call, CACHE: cache, USE_CACHE: True})
    except Exception as error:
        raise TraceError(
            f"the {type(model).__name__} cannot be called with a cache of keys and values: "
            f"{type(error).__name__}: {first_line(error)}",
            do="compile it without cache=True",
        ) from error
    if getattr(found, CACHE, None) is not cache or not cache.layers:
        raise TraceError(
            f"the {type(model).__name__} does not give back the cache of keys and values that it "
            "takes",
            do="compile it without cache=True",
        )
    pairs = [_pair(layer) for layer in cache.layers]
    # Strides of a larger tensor would be what the trace goes by.
    cut = [tuple(part[:, :, :tokens].contiguous() for part in pair) for pair in pairs]
    made = {CACHE: _put_together(cut, None)}
    # Of a model that only hands it on, the configuration says whether caches are given back.
    named = USE_CACHE in inspect.signature(model.forward).parameters
    return {**made, USE_CACHE: True} if named else made
