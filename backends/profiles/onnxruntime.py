"""ONNX Runtime, on processors, and on GPUs by its providers."""

from __future__ import annotations

from ..base import Target
from ..blocks import BLOCKS

TARGET = Target(
    name="onnxruntime",
    module="onnxruntime",
    requires=("onnx", "onnxruntime"),
    install="regauge",
    floats=("f32",),
    opset=23,
    pairs_in_16_bits=True,  # on x86 without VNNI
    closed_convolutions=True,
    weights=BLOCKS,
)
