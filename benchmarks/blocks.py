"""Diffusion models: the UNets and transformers of ``diffusers``, where it is installed."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import Any

import families
import torch

_UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
_TRANSFORMER = {"num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 2}


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _latents(channels: int) -> dict[str, Any]:
    return {"timestep": torch.tensor([3, 7]), "return_dict": False} | {
        "sample": _random(2, channels, 8, 8)
    }


def _hidden(channels: int) -> dict[str, Any]:
    inputs = _latents(channels)
    inputs["hidden_states"] = inputs.pop("sample")
    return inputs


Recipe = tuple[dict[str, Any], Callable[[], dict[str, Any]]]
_RECIPES: dict[str, Recipe] = {
    "UNet2DModel": (
        {**_UNET, "attention_head_dim": 8}
        | {"down_block_types": ("DownBlock2D", "AttnDownBlock2D")}
        | {"up_block_types": ("AttnUpBlock2D", "UpBlock2D")},
        lambda: _latents(3),
    ),
    "UNet2DConditionModel": (
        {**_UNET, "attention_head_dim": 4, "cross_attention_dim": 24}
        | {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
        | {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")},
        lambda: {**_latents(4), "encoder_hidden_states": _random(2, 6, 24)},
    ),
    "DiTTransformer2DModel": (
        {**_TRANSFORMER, "in_channels": 4, "sample_size": 8, "num_embeds_ada_norm": 10},
        lambda: {**_hidden(4), "class_labels": torch.tensor([1, 2])},
    ),
    "PixArtTransformer2DModel": (
        {**_TRANSFORMER, "in_channels": 4, "out_channels": 8, "sample_size": 8}
        | {"cross_attention_dim": 32, "caption_channels": 24, "use_additional_conditions": False},
        lambda: {**_hidden(4), "encoder_hidden_states": _random(2, 6, 24)},
    ),
    "SD3Transformer2DModel": (
        {**_TRANSFORMER, "in_channels": 4, "out_channels": 4, "sample_size": 8, "patch_size": 2}
        | {"joint_attention_dim": 24, "caption_projection_dim": 32, "pooled_projection_dim": 16}
        | {"pos_embed_max_size": 8},
        lambda: (
            {**_hidden(4), "encoder_hidden_states": _random(2, 6, 24)}
            | {"pooled_projections": _random(2, 16)}
        ),
    ),
}


def names() -> list[str]:
    """The models that can be built; none where the package is missing."""
    return [f"diffusers.{name}" for name in _RECIPES] if version().startswith("diffusers") else []


def version() -> str:
    """The package's version, or that it is missing."""
    if importlib.util.find_spec("diffusers") is None:
        return "without diffusers, which is not installed"
    return f"diffusers {importlib.metadata.version('diffusers')}"


def build(name: str, seed: int = 0) -> families.Example:
    """A small model with random weights, and inputs on which it runs."""
    # an extra, so that it may be missing
    diffusers = importlib.import_module("diffusers")

    options, example = _RECIPES[name.removeprefix("diffusers.")]
    torch.manual_seed(seed)
    model = getattr(diffusers, name.removeprefix("diffusers."))(**options).eval()
    families.randomize(model)
    return families.Example(model, example())
