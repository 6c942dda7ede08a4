"""How each op becomes calls of kernels: ``LOWERINGS[op](program, node)`` gives its value."""

from __future__ import annotations

from collections.abc import Callable

from ....ir import Node
from ..program import Program, Value
from . import codes, floats, movement, pointwise, reductions, sequences, windows

LOWERINGS: dict[str, Callable[[Program, Node], Value | None]] = {
    **codes.LOWERINGS,
    **floats.LOWERINGS,
    **pointwise.LOWERINGS,
    **movement.LOWERINGS,
    **reductions.LOWERINGS,
    **sequences.LOWERINGS,
    **windows.LOWERINGS,
}

__all__ = ["LOWERINGS"]
