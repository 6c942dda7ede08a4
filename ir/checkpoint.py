"""The checkpoint that a graph was traced from: what is needed to write changed weights back to it.

A tensor of a checkpoint lies in the graph as it is, transposed, or with a number added to each
element (a norm that multiplies by ``1 + w``); one that the trace folded into other constants lies
nowhere, and can only be written as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

from .graph import Graph

Kind: TypeAlias = Literal["linear", "embedding", "other"]


@dataclass(frozen=True)
class Checkpoint:
    """A model as it is saved.

    Attributes:
        config: What ``config.json`` holds.
        tensors: By their names in the file; tied ones under each of their names.
        tied: Names that are left out of the file, each with the one that stands for it.
        modules: What the modules that hold a ``weight`` are, by name.
        graph: The model as it was traced.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    tied: Mapping[str, str]
    modules: Mapping[str, Kind]
    graph: Graph

    def kind(self, name: str) -> Kind:
        """What the module is that a tensor belongs to."""
        return self.modules.get(name.rpartition(".")[0], "other")


@dataclass(frozen=True)
class Place:
    """How a tensor of a checkpoint lies in the graph: ``p = w + shift`` or ``p = w^T + shift``."""

    transposed: bool = False
    shift: float = 0.0

    def written(self, value: torch.Tensor) -> torch.Tensor:
        """The checkpoint's tensor for a value of the graph's parameter."""
        moved = value - self.shift if self.shift else value
        return moved.T if self.transposed else moved


def place_of(saved: torch.Tensor, traced: torch.Tensor) -> Place | None:
    """Where a saved tensor lies in a traced parameter; ``None`` where it cannot be told."""
    for transposed in (False, True):
        if transposed and saved.dim() != 2:
            break
        turned = saved.T if transposed else saved
        if turned.shape != traced.shape:
            continue
        if torch.equal(turned, traced):
            return Place(transposed)
        if not traced.is_floating_point() or not traced.numel():
            continue
        shift = round(float((traced.double() - turned.double()).mean()))
        if torch.equal(turned + shift, traced):
            return Place(transposed, float(shift))
    return None
