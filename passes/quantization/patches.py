"""A convolution as a linear map: what its kernel reads at each position is a row.

    y[:, p] = W x[:, patch(p)]  is  y_p = W_flat x_p,  W_flat of ``[O, k I]``, x_p of ``[k I]``

So whoever rounds the weights of a linear map by what it reads rounds those of a convolution too.
Columns are in the order in which integer kernels add (``ir.codes``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from ...ir import Node
from ..calibration import evenly

MOST_COLUMNS = 5120  # of which a Hessian is made: its factor takes time by their third power
ROWS_PER_COLUMN = 16  # beyond, more positions tell nothing new


@dataclass(frozen=True)
class Patches:
    """What a kernel reads: its sizes, by spatial axis; zeros are put before and behind."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, node: Node) -> Patches | None:
        """Those of a convolution; ``None`` where each group of channels has a kernel of its own, or
        a kernel reads too many numbers."""
        weight, attrs = node.args[1].shape, node.attrs
        if attrs.get("groups", 1) != 1 or not all(isinstance(size, int) for size in weight[1:]):
            return None
        size = tuple(int(part) for part in weight[2:])
        stride, dilation = (_each(attrs.get(name, 1), size) for name in ("stride", "dilation"))
        reach = [far * (count - 1) for far, count in zip(dilation, size, strict=True)]
        match attrs.get("padding", 0):
            case "valid":
                padding = tuple((0, 0) for _ in size)
            case "same":
                padding = tuple((far // 2, far - far // 2) for far in reach)
            case given:
                padding = tuple((part, part) for part in _each(given, size))
        found = cls(size, stride, dilation, padding)
        return found if found.columns(int(weight[1])) <= MOST_COLUMNS else None

    def columns(self, channels: int) -> int:
        """How many numbers the kernel reads of so many channels."""
        return torch.Size(self.size).numel() * channels

    def rows(self, value: torch.Tensor, batches: int) -> torch.Tensor:
        """The patches of a value ``[N, I, ...]`` or ``[I, ...]``, ``[positions, k I]``.

        Args:
            batches: Of how many the value is one: positions are taken evenly, as many of each as
                suffice of all.
        """
        axes = len(self.size)
        value = value if value.dim() == axes + 2 else value[None]
        value = pad(value, [end for ends in reversed(self.padding) for end in ends])
        channels = value.shape[1]
        for axis, (size, step, far) in enumerate(
            zip(self.size, self.stride, self.dilation, strict=True), start=2
        ):
            value = value.unfold(axis, far * (size - 1) + 1, step)[..., ::far]
        windows = value.movedim(1, -1)  # [N, *positions, *kernel, I]
        places = windows.shape[: axes + 1]
        keep = -(-ROWS_PER_COLUMN * self.columns(channels) // batches)
        taken = evenly(torch.arange(places.numel()), keep)
        return windows[torch.unravel_index(taken, places)].flatten(1)


def _each(given: int | tuple[int, ...], size: tuple[int, ...]) -> tuple[int, ...]:
    """One number for each axis."""
    values = (given,) if isinstance(given, int) else tuple(given)
    return values * len(size) if len(values) == 1 else values
