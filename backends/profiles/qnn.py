"""Qualcomm's HTP, by ONNX Runtime's plugin."""

from __future__ import annotations

from ...ir.recurrence import NAMES as RECURRENCES
from ..base import NoFormats, Target

TARGET = Target(
    name="qnn",
    module="qnn",
    requires=("onnx", "onnxruntime", "onnxruntime_qnn"),
    install="regauge[qnn]",
    about="for Qualcomm's HTP, simulated on other processors",
    floats=("f16",),
    opset=23,
    weights=NoFormats(),
    # a batch norm it takes, and computes wrong for some statistics
    lacks=frozenset({"scaled_dot_product_attention", "batch_norm", *RECURRENCES}),
    masked=-100.0,  # of no weight, and within what codes of sixteen bits can tell apart
    fixed_sizes=True,
    integers_only=True,
    sixteen_bits=True,
    dynamic_scales=False,
)
