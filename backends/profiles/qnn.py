"""Qualcomm's HTP, by ONNX Runtime's plugin."""

from __future__ import annotations

from ...ir.recurrence import NAMES as RECURRENCES
from ..base import NoFormats, Target

POOLS = ("avg_pool1d", "avg_pool2d", "avg_pool3d")

TARGET = Target(
    name="qnn",
    module="qnn",
    requires=("onnx", "onnxruntime", "onnxruntime_qnn"),
    install="regauge[qnn]",
    about="for Qualcomm's HTP, simulated on other processors",
    floats=("f16",),
    opset=23,
    weights=NoFormats(),
    # A batch norm it takes, and computes wrong for some statistics; as it does means of windows
    # that reach out of the image, and norms without a mean of several stacks of short rows. A group
    # norm it takes only in floats.
    lacks=frozenset(
        {
            "scaled_dot_product_attention",
            "batch_norm",
            "group_norm",
            "rms_norm",
            *POOLS,
            *RECURRENCES,
        }
    ),
    masked=-100.0,  # of no weight, and within what codes of sixteen bits can tell apart
    axes=5,
    fixed_sizes=True,
    integers_only=True,
    sixteen_bits=True,
    dynamic_scales=False,
)
