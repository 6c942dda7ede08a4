"""Ops that let numbers through between two limits."""

from __future__ import annotations

from .graph import Arg, Node

CLIPS = ("relu", "relu6", "hardtanh", "clamp")


def clip_limits(node: Node) -> tuple[Arg, Arg]:
    """The least and the greatest that a clip gives; ``None`` where there is no limit."""
    return {
        "relu": (0, None),
        "relu6": (0, 6),
        "hardtanh": (node.attrs.get("min_val", -1), node.attrs.get("max_val", 1)),
        "clamp": (node.attrs.get("min"), node.attrs.get("max")),
    }[node.op]
