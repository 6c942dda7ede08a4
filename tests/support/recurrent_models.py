"""Small random decoders that keep more than keys and values, or something else."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf

SIZES: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ATTENTION: dict[str, Any] = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}
SCAN: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 4,
}


def _mamba() -> Any:
    return hf.MambaForCausalLM(hf.MambaConfig(**SIZES, state_size=4))


def _mamba2() -> Any:
    heads: dict[str, Any] = {"num_heads": 8, "head_dim": 8, "n_groups": 2, "state_size": 8}
    return hf.Mamba2ForCausalLM(hf.Mamba2Config(**SIZES, **heads, chunk_size=4))


def _lfm2() -> Any:
    kinds = ["conv", "full_attention"]
    return hf.Lfm2ForCausalLM(
        hf.Lfm2Config(**SIZES, **ATTENTION, layer_types=kinds, conv_L_cache=3)
    )


def _bamba() -> Any:
    return hf.BambaForCausalLM(hf.BambaConfig(**SIZES, **ATTENTION, **SCAN, attn_layer_indices=[1]))


def _qwen3_next() -> Any:
    delta: dict[str, Any] = {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"],
        "mlp_only_layers": [0, 1],
        "head_dim": 8,
    }
    return hf.Qwen3NextForCausalLM(hf.Qwen3NextConfig(**SIZES, **ATTENTION, **delta))


def _minimax() -> Any:
    lightning: dict[str, Any] = {
        "layer_types": ["linear_attention", "full_attention"],
        "block_size": 4,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "head_dim": 8,
    }
    return hf.MiniMaxForCausalLM(hf.MiniMaxConfig(**SIZES, **ATTENTION, **lightning))


RECURRENT = {
    "mamba": _mamba,
    "mamba2": _mamba2,
    "lfm2": _lfm2,
    "bamba": _bamba,
    "qwen3_next": _qwen3_next,
    "minimax": _minimax,
}


def recurrent(name: str) -> Any:
    """A decoder with weights that are far from those it begins its training with."""
    torch.manual_seed(0)
    model = RECURRENT[name]()
    with torch.no_grad():
        for place, weight in model.named_parameters():
            if place.endswith("A_log"):
                weight.uniform_(0, 1)  # decays of some tokens
            elif weight.dim() > 1:
                weight.normal_(std=0.2)
            else:
                weight.add_(0.2 * torch.randn_like(weight))
    return model.eval()
