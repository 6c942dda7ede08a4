"""SliceGPT, written anew from its paper for comparison: the stream before each norm turned to its
principal axes and cut, a matrix on every shortcut that turns it on to the next.

    h Q_i [:, :k]  ->  norm  ->  W Q_i   ...   Q_(i+1)' W_out + shortcut (Q_i' Q_(i+1)) [:k, :k]

For decoders of the ``transformers`` library whose layers have the parts named here. It serves
nothing but to be compared with.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class Norm(nn.Module):
    """RMSNorm without weight, whose mean is over as many channels as there once were."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.size, self.eps = size, eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().sum(-1, keepdim=True) / self.size + self.eps)


class Layer(nn.Module):
    """A decoder layer with a matrix on each of its shortcuts."""

    def __init__(self, layer: Any, size: int) -> None:
        super().__init__()
        self.attention, self.feedforward = layer.self_attn, layer.mlp
        self.first = Norm(size, layer.input_layernorm.variance_epsilon)
        self.second = Norm(size, layer.post_attention_layernorm.variance_epsilon)
        whole = torch.eye(size, dtype=layer.input_layernorm.weight.dtype)
        self.around_attention = _parameter(whole)
        self.around_feedforward = _parameter(whole)

    def middle(self, x: torch.Tensor, **options: Any) -> torch.Tensor:
        found = self.attention(hidden_states=self.first(x), **options)[0]
        return x @ self.around_attention + found

    def forward(self, hidden_states: torch.Tensor, **options: Any) -> torch.Tensor:
        x = self.middle(hidden_states, **options)
        return x @ self.around_feedforward + self.feedforward(self.second(x))


@torch.no_grad()
def slicegpt(model: Any, batches: list[torch.Tensor], keep: int, *, normalized: bool) -> Any:
    """A sliced copy of a decoder.

    Args:
        keep: How many channels of the stream stay.
        normalized: Whether the principal axes are those of what norms give; of the stream itself
            otherwise.
    """
    model = copy.deepcopy(model)
    body, size = model.model, model.config.hidden_size
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone(), requires_grad=False)
    for layer in body.layers:
        for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            linear.weight.mul_(layer.input_layernorm.weight)
        for linear in (layer.mlp.gate_proj, layer.mlp.up_proj):
            linear.weight.mul_(layer.post_attention_layernorm.weight)
    model.lm_head.weight.mul_(body.norm.weight)
    eps = body.norm.variance_epsilon
    layers: list[Any] = [Layer(layer, size) for layer in body.layers]
    body.layers = nn.ModuleList(layers)
    body.norm = Norm(size, eps)
    options = [_options(body, batch) for batch in batches]
    streams = [body.embed_tokens(batch) for batch in batches]
    turn = _axes(streams, normalized, eps)
    body.embed_tokens.weight = _parameter(body.embed_tokens.weight @ turn[:, :keep])
    streams = [stream @ turn[:, :keep] for stream in streams]
    for layer in layers:
        for linear in (layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj):
            linear.weight = _parameter(linear.weight @ turn[:, :keep])
        layer.around_attention = _parameter(turn[:, :keep].T)
        middle = [layer.middle(s, **o) for s, o in zip(streams, options, strict=True)]
        turned = _axes(middle, normalized, eps)
        layer.around_attention = _parameter(turn[:, :keep].T @ turned[:, :keep])
        layer.attention.o_proj.weight = _parameter(
            turned[:, :keep].T @ layer.attention.o_proj.weight
        )
        for linear in (layer.feedforward.gate_proj, layer.feedforward.up_proj):
            linear.weight = _parameter(linear.weight @ turned[:, :keep])
        layer.around_feedforward = _parameter(turned[:, :keep].T)
        after = [layer(s, **o) for s, o in zip(streams, options, strict=True)]
        turn = _axes(after, normalized, eps)
        layer.around_feedforward = _parameter(turned[:, :keep].T @ turn[:, :keep])
        layer.feedforward.down_proj.weight = _parameter(
            turn[:, :keep].T @ layer.feedforward.down_proj.weight
        )
        streams = [stream @ turn[:, :keep] for stream in after]
    model.lm_head.weight = _parameter(model.lm_head.weight @ turn[:, :keep])
    return model


def _options(body: Any, ids: torch.Tensor) -> dict[str, Any]:
    """What the decoder gives its layers besides the stream."""
    seen: dict[str, Any] = {}

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        seen.update({key: value for key, value in kwargs.items() if key != "hidden_states"})

    handle = body.layers[0].register_forward_pre_hook(hook, with_kwargs=True)
    body(ids)
    handle.remove()
    return seen


def _axes(streams: list[torch.Tensor], normalized: bool, eps: float) -> torch.Tensor:
    """The principal axes of streams, the greatest first."""
    size = streams[0].shape[-1]
    second = torch.zeros(size, size, dtype=torch.float64)
    for stream in streams:
        rows = stream.flatten(0, -2).double()
        if normalized:
            rows = rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + eps)
        second += rows.T @ rows
    return torch.linalg.eigh(second)[1].flip(1).to(streams[0].dtype)


def _parameter(value: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(value.contiguous(), requires_grad=False)
