"""Recurrent layers at any number of times.

``torch.export`` runs PyTorch's own recurrent ops step by step to learn the shapes of their results,
which makes the number of times a constant. While a model is exported, those over a symbolic number
of times are called as one op, ``recurrent_layers``, which knows its shapes; the canonical form
takes it apart as it does PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LAYERS: Mapping[Callable[..., Any], str] = {
    torch.lstm: "lstm",
    torch.gru: "gru",
    torch.rnn_tanh: "rnn_tanh",
    torch.rnn_relu: "rnn_relu",
}


@torch.library.custom_op("regauge::recurrent_layers", mutates_args=())
def recurrent_layers(
    input: Tensor,
    hx: list[Tensor],
    params: list[Tensor],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
    kind: str,
) -> list[Tensor]:
    """``torch.lstm``, ``torch.gru``, ... in evaluation: all outputs, then the last states."""
    states = hx if kind == "lstm" else hx[0]
    options = (has_biases, num_layers, 0.0, False, bidirectional, batch_first)
    return list(getattr(torch, kind)(input, states, params, *options))


@recurrent_layers.register_fake
def _(
    input: Tensor,
    hx: list[Tensor],
    params: list[Tensor],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
    kind: str,
) -> list[Tensor]:
    width = hx[0].shape[2] * (2 if bidirectional else 1)
    output = input.new_empty(input.shape[0], input.shape[1], width)
    return [output, *(torch.empty_like(state) for state in hx)]


class AnyLength(TorchFunctionMode):
    """Calls ``recurrent_layers`` where the number of times is symbolic."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func not in _LAYERS or kwargs or not isinstance(args[2], (list, tuple)):
            return func(*args, **(kwargs or {}))  # those over packed sequences too
        x, given, params, has_biases, layers, _, train, bidirectional, batch_first = args
        states = list(given) if isinstance(given, (list, tuple)) else [given]
        times = x.shape[1 if batch_first else 0]
        projected = states[0].shape[2] != states[-1].shape[2]
        if isinstance(times, int) or train or projected:
            return func(*args)
        kind = _LAYERS[func]
        options = (has_biases, layers, bidirectional, batch_first, kind)
        return tuple(recurrent_layers(x, states, list(params), *options))
