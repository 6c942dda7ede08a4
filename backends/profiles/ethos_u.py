"""Arm's Ethos-U, by ExecuTorch and Vela."""

from __future__ import annotations

from ...ir.recurrence import NAMES as RECURRENCES
from ..base import NoFormats, Target

TARGET = Target(
    name="ethos-u",
    module="executorch.ethos_u",
    requires=("executorch", "tosa_reference_model", "ethosu"),
    install="regauge[ethos-u]",
    about="for Arm's Ethos-U, by ExecuTorch and Vela; runs in Arm's reference model of TOSA",
    unsigned_activations=False,
    weights=NoFormats(),
    lacks=frozenset(
        {
            "scaled_dot_product_attention",
            "softmax",
            "log_softmax",
            "layer_norm",
            "rms_norm",
            "batch_norm",
            "group_norm",
            "adaptive_avg_pool2d",
            "max_pool1d",
            "mean",
            "div",
            "matmul",
            "silu",
            "mish",
            "hardswish",
            "hardsigmoid",
            *RECURRENCES,
        }
    ),
    masked=-30.0,
    fixed_sizes=True,
    integers_only=True,
    dynamic_scales=False,
)
