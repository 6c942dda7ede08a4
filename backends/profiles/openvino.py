"""OpenVINO on processors."""

from __future__ import annotations

from dataclasses import replace

from ..base import Target
from ..blocks import BLOCKS

TARGET = Target(
    name="openvino",
    module="openvino",
    requires=("onnx", "openvino"),
    install="regauge[openvino]",
    floats=("f32",),
    opset=23,
    pairs_in_16_bits=True,  # on x86 without VNNI
    closed_convolutions=True,
    coded_scores=True,
    weights=replace(BLOCKS, bits=(4, 8)),
    dynamic_scales=False,
)
