"""Small random models of many families, each in well under a second, for tests of anything on
graphs.

Tests take them through the fixture ``zoo_model``. All weights are random, those of norms too: a
model whose norm weights are ones and whose biases are zeros computes the same with half of them
left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as hf


@dataclass
class ZooModel:
    """A model in eval mode, how to call it, and which inputs may vary in size."""

    name: str
    model: torch.nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    layers: int = 2

    def resized(self, batch: int, length: int | None = None) -> tuple[Any, ...]:
        """Other inputs of another batch size, and of another sequence length where asked for."""
        generator = torch.Generator().manual_seed(batch)
        made: list[torch.Tensor] = []
        for value in self.args:
            tail = value.shape[1:] if length is None else (length, *value.shape[2:])
            if value.is_floating_point():
                made.append(torch.randn(batch, *tail, generator=generator, dtype=value.dtype))
            else:
                made.append(
                    torch.randint(0, int(value.max()) + 1, (batch, *tail), generator=generator)
                )
        return tuple(made)


def _ids(batch: int = 2, length: int = 12, vocabulary: int = 99) -> torch.Tensor:
    return torch.randint(3, vocabulary, (batch, length), generator=torch.Generator().manual_seed(0))


def _pixels(batch: int = 2, size: int = 32, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, channels, size, size, generator=generator)


_TEXT = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_LLAMA = {**_TEXT, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
_OFF = {"use_cache": False, "return_dict": True}


def _causal(config: str, model: str, values: dict[str, Any]) -> Callable[[str], torch.nn.Module]:
    return lambda attention: getattr(hf, model)(
        getattr(hf, config)(**{**values, "attn_implementation": attention})
    )


Recipe = tuple[Callable[[str], torch.nn.Module], Callable[[], torch.Tensor], dict[str, Any]]
_BUILD: dict[str, Recipe] = {
    "bert": (
        _causal("BertConfig", "BertModel", {**_TEXT, "intermediate_size": 64}),
        _ids,
        {},
    ),
    "gpt2": (
        _causal(
            "GPT2Config",
            "GPT2LMHeadModel",
            {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
        ),
        _ids,
        {"use_cache": False},
    ),
    "opt": (
        _causal(
            "OPTConfig",
            "OPTForCausalLM",
            {**_TEXT, "ffn_dim": 64, "max_position_embeddings": 64, "word_embed_proj_dim": 32},
        ),
        _ids,
        {"use_cache": False},
    ),
    "llama": (_causal("LlamaConfig", "LlamaForCausalLM", _LLAMA), _ids, {"use_cache": False}),
    "qwen3": (
        _causal("Qwen3Config", "Qwen3ForCausalLM", {**_LLAMA, "head_dim": 8}),
        _ids,
        {"use_cache": False},
    ),
    "gemma": (
        _causal("GemmaConfig", "GemmaForCausalLM", {**_LLAMA, "head_dim": 8}),
        _ids,
        {"use_cache": False},
    ),
    "gemma2": (
        _causal(
            "Gemma2Config", "Gemma2ForCausalLM", {**_LLAMA, "head_dim": 8, "sliding_window": 8}
        ),
        _ids,
        {"use_cache": False},
    ),
    "mixtral": (
        _causal("MixtralConfig", "MixtralForCausalLM", {**_LLAMA, "num_local_experts": 4}),
        _ids,
        {"use_cache": False},
    ),
    "bloom": (
        _causal(
            "BloomConfig",
            "BloomForCausalLM",
            {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        ),
        _ids,
        {"use_cache": False},
    ),
    "mamba": (
        _causal(
            "MambaConfig",
            "MambaForCausalLM",
            {
                "vocab_size": 99,
                "hidden_size": 16,
                "num_hidden_layers": 2,
                "state_size": 4,
                "time_step_rank": 4,
            },
        ),
        lambda: _ids(length=6),
        {"use_cache": False},
    ),
    "t5_encoder": (
        _causal(
            "T5Config",
            "T5EncoderModel",
            {
                "vocab_size": 99,
                "d_model": 32,
                "d_kv": 8,
                "d_ff": 64,
                "num_layers": 2,
                "num_heads": 4,
            },
        ),
        _ids,
        {},
    ),
    "vit": (
        _causal(
            "ViTConfig",
            "ViTModel",
            {**_TEXT, "intermediate_size": 64, "image_size": 32, "patch_size": 8},
        ),
        _pixels,
        {},
    ),
    "swin": (
        _causal(
            "SwinConfig",
            "SwinModel",
            {
                "image_size": 32,
                "patch_size": 2,
                "embed_dim": 16,
                "depths": [2, 2],
                "num_heads": [2, 4],
                "window_size": 4,
            },
        ),
        _pixels,
        {},
    ),
    "convnext": (
        _causal(
            "ConvNextConfig",
            "ConvNextModel",
            {"hidden_sizes": [16, 24, 32, 40], "depths": [2, 2, 2, 2]},
        ),
        lambda: _pixels(size=64),
        {},
    ),
    "resnet": (
        _causal(
            "ResNetConfig",
            "ResNetModel",
            {
                "embedding_size": 16,
                "hidden_sizes": [16, 32],
                "depths": [2, 2],
                "layer_type": "basic",
            },
        ),
        _pixels,
        {},
    ),
    "mobilenet_v2": (
        _causal(
            "MobileNetV2Config",
            "MobileNetV2Model",
            {"image_size": 32, "depth_multiplier": 0.25, "min_depth": 4, "tf_padding": False},
        ),
        _pixels,
        {},
    ),
    "whisper_encoder": (
        lambda attention: hf.WhisperModel(
            hf.WhisperConfig(
                vocab_size=99,
                num_mel_bins=8,
                d_model=32,
                encoder_layers=2,
                encoder_attention_heads=4,
                encoder_ffn_dim=64,
                decoder_layers=1,
                decoder_attention_heads=4,
                decoder_ffn_dim=64,
                max_source_positions=20,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
                decoder_start_token_id=1,
                attn_implementation=attention,  # pyright: ignore[reportCallIssue]
            )
        ).get_encoder(),
        lambda: torch.randn(2, 8, 40, generator=torch.Generator().manual_seed(0)),
        {},
    ),
}

NAMES = tuple(_BUILD)


def zoo_model(name: str, *, attention: str | None = None) -> ZooModel:
    """The model of this name with random weights, its norms' and biases' too.

    Args:
        attention: ``"sdpa"`` or ``"eager"``; by default what the family itself would take.
    """
    torch.manual_seed(0)
    build, example, kwargs = _BUILD[name]
    model = build(attention) if attention else build(None)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() <= 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("running_mean"):
                buffer.add_(0.3 * torch.randn_like(buffer))
            elif buffer_name.endswith("running_var"):
                buffer.mul_(1 + torch.rand_like(buffer))
    return ZooModel(name, model.eval(), (example(),), dict(kwargs))
