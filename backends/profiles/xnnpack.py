"""XNNPACK on phones, by ExecuTorch."""

from __future__ import annotations

from ...ir.recurrence import NAMES as RECURRENCES
from ..base import NoFormats, Target

TARGET = Target(
    name="xnnpack",
    module="executorch.xnnpack",
    requires=("executorch",),
    install="regauge[executorch]",
    about="for phones, by ExecuTorch",
    floats=("f32",),
    unsigned_activations=False,
    weights=NoFormats(),
    lacks=frozenset({"scaled_dot_product_attention", "mean", "rms_norm", *RECURRENCES}),
    masked=-30.0,
    fixed_sizes=True,
    integers_only=True,
    dynamic_scales=False,
)
