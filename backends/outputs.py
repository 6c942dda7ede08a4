"""What a runtime gives, as the graph gives it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ..ir import Graph, Node, ScalarType


class Outputs:
    """Puts the outputs of a graph together: runtimes give those that are values, as tensors."""

    def __init__(self, graph: Graph) -> None:
        self._constants = [None if isinstance(arg, Node) else (arg,) for arg in graph.outputs]
        self._scalars = [
            isinstance(arg, Node) and isinstance(arg.type, ScalarType) for arg in graph.outputs
        ]

    def of(self, found: Iterable[torch.Tensor]) -> tuple[Any, ...]:
        """All outputs, from the tensors of those that are no constants."""
        rest = iter(found)
        return tuple(
            constant[0] if constant is not None else _as(next(rest), scalar)
            for constant, scalar in zip(self._constants, self._scalars, strict=True)
        )


def _as(tensor: torch.Tensor, scalar: bool) -> Any:
    return tensor.item() if scalar else tensor
