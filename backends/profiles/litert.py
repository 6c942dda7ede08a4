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
    lacks=frozenset(RECURRENCES),
    fixed_sizes=True,
    integers_only=True,
    dynamic_scales=False,
)
