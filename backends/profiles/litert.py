"""LiteRT on phones."""

from __future__ import annotations

from ...ir.recurrence import NAMES as RECURRENCES
from ..base import NoFormats, Target

TARGET = Target(
    name="litert",
    module="litert",
    requires=("litert_torch", "ai_edge_litert"),
    install="regauge[litert]",
    about="for phones, by LiteRT",
    floats=("f32",),
    unsigned_activations=False,
    weights=NoFormats(),
    # Its converter takes the nearest of centres for that of corners, and transposed convolutions
    # with padding for some others.
    lacks=frozenset(
        {"upsample_nearest2d", "conv_transpose1d", "conv_transpose2d", *RECURRENCES},
    ),
    fixed_sizes=True,
    integers_only=True,
    dynamic_scales=False,
)
