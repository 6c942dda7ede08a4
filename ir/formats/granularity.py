"""Granularity: which numbers of a tensor share a scale.

A tensor is cut into blocks such that a scale broadcasts against them, ``[..., n] -> [..., n / g,
g]`` for groups and the tensor itself otherwise, so one pair of operations serves all:
``codes * scale``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch.nn.functional import pad

from ..errors import InputError

Kind: TypeAlias = Literal["tensor", "channel", "token", "group"]


@dataclass(frozen=True)
class Granularity:
    """Which numbers share a scale.

    Args:
        kind: ``tensor``: all. ``channel``: those of one index of an axis. ``token``: those of one
            row of the last axis. ``group``: ``size`` neighbours along an axis.
        size: Of a group.
        axis: Of channels (the first, where none is given) or groups (the last).
        pad: Whether a last group that is not full is filled up with zeros, which are stored;
            otherwise such a tensor is refused.
    """

    kind: Kind
    size: int = 0
    axis: int | None = None
    pad: bool = False

    def __post_init__(self) -> None:
        if (self.kind == "group") != (self.size > 0):
            given = f"{self.kind} of {self.size}"
            raise InputError(f"a group needs a size, and nothing else has one: {given}")

    @property
    def name(self) -> str:
        """As users write it."""
        axis = "" if self.axis is None else f"@{self.axis}"
        kind = f"g{self.size}" if self.kind == "group" else self.kind
        return f"{kind}{axis}{'-pad' if self.pad else ''}"

    @property
    def by_row(self) -> bool:
        """Whether no two rows of a matrix share a scale."""
        if self.kind == "group":
            return self.axis in (None, -1, 1)
        return self.kind == "token" or (self.kind == "channel" and self.axis in (None, 0, -2))

    def cut(self, tensor: torch.Tensor, vector: int | None = None) -> torch.Tensor:
        """The blocks of a tensor.

        Args:
            tensor: Of any shape.
            vector: How many numbers share a code; the result then has an axis more, of these.
        """
        unit = vector or 1
        if tensor.dim() == 0 and (self.kind != "tensor" or vector):
            raise InputError(f"a single number has no {self.kind} or vector to share a scale with")
        if self.kind == "group":
            if self.size % unit:
                raise InputError(f"vectors of {unit} do not fill groups of {self.size}")
            blocks = self._filled(tensor.movedim(self._axis(tensor.dim()), -1), self.size)
            blocks = blocks.unflatten(-1, (-1, self.size))
        else:
            if vector and self.kind == "channel" and self._axis(tensor.dim()) == tensor.dim() - 1:
                raise InputError("vectors lie along the last axis, so it cannot be the channels'")
            blocks = self._filled(tensor, unit) if vector else tensor
        return blocks.unflatten(-1, (-1, vector)) if vector else blocks

    def join(
        self, blocks: torch.Tensor, shape: torch.Size, vector: int | None = None
    ) -> torch.Tensor:
        """The tensor of a shape, of its blocks; what was filled up is left out."""
        if vector:
            blocks = blocks.flatten(-2)
        if self.kind != "group":
            return blocks[..., : shape[-1]] if vector else blocks
        axis = self.axis if self.axis is not None else -1
        size = shape[axis]
        return blocks.flatten(-2)[..., :size].movedim(-1, axis)

    def shared(self, blocks: torch.Tensor, vector: int | None = None) -> tuple[int, ...]:
        """The axes of blocks over which a scale is shared, without the axis within a vector."""
        last = blocks.dim() - (2 if vector else 1)
        if self.kind == "tensor":
            return tuple(range(last + 1))
        if self.kind == "channel":
            kept = self._axis(last + 1)
            return tuple(i for i in range(last + 1) if i != kept)
        return (last,)

    def _axis(self, count: int) -> int:
        """The axis that is cut or kept, of so many."""
        axis = self.axis if self.axis is not None else 0 if self.kind == "channel" else -1
        if not -count <= axis < count:
            raise InputError(f"{self.name} needs axis {axis} of a tensor of {count} axes")
        return axis % count

    def _filled(self, tensor: torch.Tensor, size: int) -> torch.Tensor:
        missing = -tensor.shape[-1] % size
        if missing and not self.pad:
            raise InputError(
                f"an axis of {tensor.shape[-1]} does not divide into groups of {size}",
                do=f"choose a group that divides it, or write -pad, which stores {missing} zeros "
                "a row",
            )
        return pad(tensor, (0, missing)) if missing else tensor
