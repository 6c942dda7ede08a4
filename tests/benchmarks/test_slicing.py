"""The peer whose method is written anew for comparison does what its paper says."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import transformers as hf
from claims import slicing
from claims.slicing import slicegpt

from regauge.passes.manager import difference

WIDTH, KEPT = 32, 20


def _norm() -> Any:
    """A norm that does not round to float32."""
    norm: Any = torch.nn.RMSNorm(WIDTH, 1e-6, dtype=torch.float64).requires_grad_(False)
    norm.variance_epsilon = norm.eps
    return norm


@functools.cache
def decoder() -> tuple[Any, list[torch.Tensor]]:
    """A small decoder whose stream has greater and lesser directions, and tokens for it."""
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=50,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_cache=False,
    )
    model: Any = hf.LlamaForCausalLM(config).double().eval().requires_grad_(False)
    model.model.norm = _norm()
    for layer in model.model.layers:
        layer.input_layernorm, layer.post_attention_layernorm = _norm(), _norm()
    for name, parameter in model.named_parameters():
        parameter.normal_(1.0 if "norm" in name else 0.0, 0.3)
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, dtype=torch.float64))[0]
    sizes = 2.0 ** -torch.linspace(0, 5, WIDTH, dtype=torch.float64)
    model.model.embed_tokens.weight.copy_(10 * torch.randn(50, WIDTH).double() * sizes @ turn)
    for layer in model.model.layers:  # what is added has the same directions
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            linear.weight.copy_(turn.T @ (sizes[:, None] * linear.weight))
    return model, [torch.randint(0, 50, (4, 12)) for _ in range(3)]


def error(sliced: Any) -> float:
    model, batches = decoder()
    found, wanted = ([m(batch).logits for batch in batches] for m in (sliced, model))
    return difference(found, wanted)


def widened(sliced: Any) -> Any:
    """A sliced decoder in its old width: zeros where channels were, and a norm's own mean."""

    def full(matrix: torch.Tensor, *axes: int) -> torch.Tensor:
        shape = [WIDTH if i in axes else size for i, size in enumerate(matrix.shape)]
        new = matrix.new_zeros(shape)
        new[tuple(slice(size) for size in matrix.shape)] = matrix
        return new

    body = sliced.model
    body.embed_tokens.weight.data = full(body.embed_tokens.weight, 1)
    sliced.lm_head.weight.data = full(sliced.lm_head.weight, 1)
    body.norm = _norm()
    for layer in body.layers:
        layer.first, layer.second = _norm(), _norm()
        for name in ("q_proj", "k_proj", "v_proj"):
            linear = getattr(layer.attention, name)
            linear.weight.data = full(linear.weight, 1)
        for linear in (layer.feedforward.gate_proj, layer.feedforward.up_proj):
            linear.weight.data = full(linear.weight, 1)
        for linear in (layer.attention.o_proj, layer.feedforward.down_proj):
            linear.weight.data = full(linear.weight, 0)
        for shortcut in (layer.around_attention, layer.around_feedforward):
            shortcut.data = full(shortcut.data, 0, 1)
    return sliced


@pytest.mark.parametrize("normalized", [True, False])
def test_with_all_channels_kept_only_the_axes_are_others(normalized: bool) -> None:
    model, batches = decoder()
    turned = slicegpt(model, batches, WIDTH, normalized=normalized)
    assert error(turned) < 1e-9
    assert not torch.allclose(turned.model.embed_tokens.weight, model.model.embed_tokens.weight)


@pytest.mark.parametrize("normalized", [True, False])
def test_sliced_is_turned_with_zeros_in_the_last_channels(normalized: bool) -> None:
    model, batches = decoder()
    sliced = slicegpt(model, batches, KEPT, normalized=normalized)
    assert sliced.model.embed_tokens.weight.shape[1] == KEPT
    found = [sliced(batch).logits for batch in batches]
    again = slicegpt(model, batches, KEPT, normalized=normalized)
    assert difference(found, [widened(again)(batch).logits for batch in batches]) < 1e-9


def test_what_is_cut_off_the_stream_is_what_its_least_axes_hold() -> None:
    model, batches = decoder()
    sliced = slicegpt(model, batches, KEPT, normalized=False)
    rows = torch.cat([model.model.embed_tokens(batch).flatten(0, 1) for batch in batches])
    left = torch.cat([sliced.model.embed_tokens(batch).flatten(0, 1) for batch in batches])
    values = torch.linalg.svdvals(rows)
    lost = rows.square().sum() - left.square().sum()
    torch.testing.assert_close(lost, values[KEPT:].square().sum(), rtol=1e-9, atol=0)


def test_principal_axes_are_better_than_any_others(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = decoder()
    principal = [error(slicegpt(model, batches, KEPT, normalized=n)) for n in (True, False)]
    random = torch.Generator().manual_seed(0)

    def drawn(streams: list[torch.Tensor], *_: object) -> torch.Tensor:
        noise = torch.randn(WIDTH, WIDTH, generator=random, dtype=streams[0].dtype)
        return torch.linalg.qr(noise)[0]

    monkeypatch.setattr(slicing, "_axes", drawn)
    others = [error(slicegpt(model, batches, KEPT, normalized=False)) for _ in range(5)]
    assert max(principal) < min(others) / 2
