"""What steps through time in recurrent layers, one direction of one layer each.

What a layer makes of its input at all times at once is a ``linear`` before these ops; they take its
result, the ``gates``, in PyTorch's order of the blocks, and add what each step makes of the last.

Shapes: gates ``[T, B, G H]``, weight ``[G H, H]``, bias ``[G H]``, the states before the first step
``[B, H]``, zeros where they are left out. With ``reverse`` the first step is that of the last time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

STATES = ("lstm_states", "gru_states", "rnn_tanh_states", "rnn_relu_states")
NAMES = (*STATES, "lstm_last_cell")


def _times(gates: Tensor, reverse: bool) -> list[int]:
    times = list(range(gates.shape[0]))
    return times[::-1] if reverse else times


def _start(gates: Tensor, weight: Tensor, state: Tensor | None) -> Tensor:
    return gates.new_zeros(gates.shape[1], weight.shape[1]) if state is None else state


def _lstm(
    gates: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
    cell: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """The hidden states of all times, and the last cell state."""
    h, c = _start(gates, weight, hidden), _start(gates, weight, cell)
    states = list[Tensor](gates)
    for t in _times(gates, reverse):
        i, f, g, o = (gates[t] + F.linear(h, weight, bias)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        states[t] = h = torch.sigmoid(o) * torch.tanh(c)
    return torch.stack(states), c


@torch.library.custom_op("regauge::lstm_states", mutates_args=())
def lstm_states(
    gates: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    *,
    reverse: bool = False,
) -> Tensor:
    """The hidden states ``[T, B, H]`` of an LSTM whose gates are i, f, g, o.

    ``c = sigmoid(f) c + sigmoid(i) tanh(g)`` and ``h = sigmoid(o) tanh(c)``.
    """
    return _lstm(gates, weight, bias, hidden, cell, reverse)[0]


@torch.library.custom_op("regauge::lstm_last_cell", mutates_args=())
def lstm_last_cell(
    gates: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    *,
    reverse: bool = False,
) -> Tensor:
    """The cell state ``[B, H]`` after the last step of the same LSTM."""
    return _lstm(gates, weight, bias, hidden, cell, reverse)[1].clone()


@torch.library.custom_op("regauge::gru_states", mutates_args=())
def gru_states(
    gates: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    hidden: Tensor | None = None,
    *,
    reverse: bool = False,
) -> Tensor:
    """The hidden states ``[T, B, H]`` of a GRU whose gates are r, z, n.

    ``n = tanh(x_n + sigmoid(r) (W_n h + b_n))`` and ``h = (1 - sigmoid(z)) n + sigmoid(z) h``.
    """
    return _gru(gates, weight, bias, hidden, reverse)


def _gru(
    gates: Tensor, weight: Tensor, bias: Tensor | None, hidden: Tensor | None, reverse: bool
) -> Tensor:
    h = _start(gates, weight, hidden)
    states = list[Tensor](gates)
    for t in _times(gates, reverse):
        r, z, n = gates[t].chunk(3, -1)
        hr, hz, hn = F.linear(h, weight, bias).chunk(3, -1)
        new = torch.tanh(n + torch.sigmoid(r + hr) * hn)
        states[t] = h = torch.lerp(new, h, torch.sigmoid(z + hz))
    return torch.stack(states)


def _rnn(
    function: Callable[[Tensor], Tensor],
    gates: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
    reverse: bool,
) -> Tensor:
    h = _start(gates, weight, hidden)
    states = list[Tensor](gates)
    for t in _times(gates, reverse):
        states[t] = h = function(gates[t] + F.linear(h, weight, bias))
    return torch.stack(states)


@torch.library.custom_op("regauge::rnn_tanh_states", mutates_args=())
def rnn_tanh_states(
    gates: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    hidden: Tensor | None = None,
    *,
    reverse: bool = False,
) -> Tensor:
    """``h = tanh(x + W h + b)`` at all times, ``[T, B, H]``."""
    return _rnn(torch.tanh, gates, weight, bias, hidden, reverse)


@torch.library.custom_op("regauge::rnn_relu_states", mutates_args=())
def rnn_relu_states(
    gates: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    hidden: Tensor | None = None,
    *,
    reverse: bool = False,
) -> Tensor:
    """``h = relu(x + W h + b)`` at all times, ``[T, B, H]``."""
    return _rnn(torch.relu, gates, weight, bias, hidden, reverse)


def _like_states(
    gates: Tensor, weight: Tensor, *rest: Tensor | None, reverse: bool = False
) -> Tensor:
    return gates.new_empty(gates.shape[0], gates.shape[1], weight.shape[1])


def _like_one(gates: Tensor, weight: Tensor, *rest: Tensor | None, reverse: bool = False) -> Tensor:
    return gates.new_empty(gates.shape[1], weight.shape[1])


for _op in (lstm_states, gru_states, rnn_tanh_states, rnn_relu_states):
    _op.register_fake(_like_states)
lstm_last_cell.register_fake(_like_one)


def _save(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: Any, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)
    ctx.reverse = keyword_only_inputs["reverse"]


def _learns_by(op: Any, steps: Callable[..., Tensor]) -> None:
    """Gradients of an op are those of its steps, which are computed once more."""

    def gradient(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        inputs = [t if t is None else t.detach().requires_grad_() for t in ctx.saved_tensors]
        with torch.enable_grad():
            result = steps(*inputs, ctx.reverse)
        known = [t for t in inputs if t is not None]
        found = iter(torch.autograd.grad(result, known, given, allow_unused=True))
        return tuple(None if t is None else next(found) for t in inputs)

    op.register_autograd(gradient, setup_context=_save)


_learns_by(lstm_states, lambda *given: _lstm(*given)[0])
_learns_by(lstm_last_cell, lambda *given: _lstm(*given)[1])
_learns_by(gru_states, _gru)
_learns_by(rnn_tanh_states, partial(_rnn, torch.tanh))
_learns_by(rnn_relu_states, partial(_rnn, torch.relu))
