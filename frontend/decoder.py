"""Decoders as graphs: any number of tokens beside a cache, or one beside what the model keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..ir import Graph, InputError, TraceError
from .caches import CachedCall, with_cache
from .steps import SteppedCall, with_steps
from .trace import trace


def trace_decoder(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    release_weights: bool = False,
) -> tuple[Graph, CachedCall]:
    """The graph of a decoder, and how it is called.

    Keys and values alone let it take any number of tokens. Where a model keeps something else, or
    code goes by how many tokens there are, it takes one.

    Args:
        args, kwargs: Example inputs: ids ``[batch, tokens]``, and constants.

    Raises:
        InputError: The model keeps nothing, or the example holds other tensors than ids.
        TraceError: The model cannot be captured; names the user's line.
    """
    try:
        call = with_cache(model, args, kwargs)
        return _traced(model, call, release_weights), call
    except (InputError, TraceError) as error:
        stepped = _stepped(model, args, kwargs, error)
        if stepped is None:
            raise
    return _traced(model, stepped, release_weights), stepped


def _stepped(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    error: InputError | TraceError,
) -> SteppedCall | None:
    """The call on one token, if the model keeps something that it can go on from."""
    try:
        return with_steps(model, args, kwargs, error.what)
    except InputError:  # of the example, which is looked at first where a cache is taken
        return None


def _traced(model: torch.nn.Module, call: CachedCall, release_weights: bool) -> Graph:
    def traced(call: CachedCall) -> Graph:
        with call.taken_apart(model):
            return trace(
                model, (), call.traced, dynamic_shapes=call.shapes, release_weights=release_weights
            )

    try:
        return traced(call)
    except TraceError as error:
        if (bounded := call.within(error)) is not None:
            return traced(bounded)
        if "dynamic_shapes" not in error.do:
            raise
        raise TraceError(  # the advice is for who gives them
            error.what,
            where=error.where,
            do="compile it without cache=True, which lets the batch and the lengths vary",
        ) from error
