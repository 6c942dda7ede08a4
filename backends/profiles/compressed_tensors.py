"""Checkpoints that transformers and vLLM load."""

from __future__ import annotations

from ..base import Target
from ..compressed_tensors.layout import Layouts

TARGET = Target(
    name="compressed-tensors",
    module="compressed_tensors.runner",
    requires=("torch", "safetensors"),
    install="regauge[compressed-tensors]",
    about="Hugging Face models, as a checkpoint that transformers and vLLM load",
    weights=Layouts(),
    simulates=True,
    keeps_code=True,
)
