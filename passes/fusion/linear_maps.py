"""Linear maps as numbers: read off a graph, brought to one form, and written back.

Along each axis of space, and for each pair of channels, a convolution gives

    y[t] = sum_k w[k] x[stride t + dilation k - before]        x = 0 outside

so two of one stride over one value are one, whose kernel has room for both. A linear layer is a
convolution without such axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from ...ir import Node
from ...ir.gauge.sites import CONTRACTIONS


class Apart(Exception):
    """Two maps are not one; the message says why."""


@dataclass(frozen=True)
class Window:
    """What a convolution reads along one axis."""

    kernel: int
    stride: int = 1
    dilation: int = 1
    before: int = 0  # zeros put before the first position
    after: int = 0

    @property
    def last(self) -> int:
        """The last position that the first result reads."""
        return self.dilation * (self.kernel - 1) - self.before

    def join(self, other: Window) -> Window:
        """The window that holds both; raises ``Apart``."""
        if self.stride != other.stride:
            raise Apart(f"their strides are {self.stride} and {other.stride}")
        step = other.dilation if self.kernel == 1 else self.dilation
        if other.kernel > 1 and step != other.dilation:
            raise Apart(f"their dilations are {step} and {other.dilation}")
        before, last = max(self.before, other.before), max(self.last, other.last)
        if (last + before) % step or (self.before - other.before) % step:
            raise Apart(f"paddings of {self.before} and {other.before} cannot be made equal")
        after = self.after + last - self.last
        return Window((last + before) // step + 1, self.stride, step, before, after)

    def even(self, size: int | str, result: int | str) -> Window:
        """With as much padding on both sides, as ops have it; raises ``Apart``."""
        if self.before == self.after:
            return self
        if isinstance(size, int) and isinstance(result, int):
            room = size + self.before - self.last - 1  # what the last result may reach beyond
            if room // self.stride + 1 == result:
                return replace(self, after=self.before)
        raise Apart(f"the padding would be {self.before} before and {self.after} behind")


@dataclass(frozen=True)
class Form:
    """All of a linear map but its numbers.

    Attributes:
        op: The op that computes it.
        outputs: How many channels it gives.
        inputs: How many it reads.
        groups: How many parts the channels fall into; ``None`` if any number will do.
        windows: One for each axis of space.
    """

    op: str
    outputs: int
    inputs: int
    groups: int | None
    windows: tuple[Window, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        kernel = (window.kernel for window in self.windows)
        return (self.outputs, self.inputs // (self.groups or 1), *kernel)

    @property
    def size(self) -> int:
        """How many weights there are, and products for each position of the result."""
        return math.prod(self.shape)

    def join(self, other: Form) -> Form:
        """The form that holds both; raises ``Apart``."""
        if None not in (self.groups, other.groups) and self.groups != other.groups:
            raise Apart(f"their channels fall into {self.groups} and {other.groups} groups")
        windows = tuple(a.join(b) for a, b in zip(self.windows, other.windows, strict=True))
        return replace(self, groups=self.groups or other.groups, windows=windows)

    def attributes(self, source: Node, result: Node) -> dict[str, Any]:
        """The op's attributes; raises ``Apart`` where it has none for this."""
        if not self.windows:
            return {}
        count = len(self.windows)
        sizes = zip(self.windows, source.shape[-count:], result.shape[-count:], strict=True)
        windows = [window.even(*ends) for window, *ends in sizes]
        found = {
            "stride": tuple(window.stride for window in windows),
            "padding": tuple(window.before for window in windows),
            "dilation": tuple(window.dilation for window in windows),
            "groups": self.groups or 1,
        }
        neutral = {"stride": (1,) * count, "padding": (0,) * count, "dilation": (1,) * count}
        return {k: v for k, v in found.items() if v != neutral.get(k, 1)}

    def place(self, weight: torch.Tensor, form: Form) -> torch.Tensor:
        """A weight of another form that this one holds, with zeros around it."""
        pads: list[int] = []
        for own, window in zip(reversed(self.windows), reversed(form.windows), strict=True):
            start = (own.before - window.before) // own.dilation
            pads += [start, own.kernel - start - window.kernel]
        return functional.pad(weight, pads)

    def diagonal(self, scale: torch.Tensor) -> torch.Tensor:
        """The weight of ``scale x``, channel by channel: the unit matrix, in groups."""
        width = self.inputs // (self.groups or 1)
        weight = scale.new_zeros(self.outputs, width)
        channel = torch.arange(self.outputs)
        weight[channel, channel % width] = scale
        return weight.reshape(self.outputs, width, *[1] * len(self.windows))


def form_of(node: Node) -> Form | None:
    """The form of a contraction with constant weights; ``None`` for anything else."""
    if node.op not in CONTRACTIONS or not isinstance(node.args[0], Node):
        return None
    parts = [part for part in node.args[1:] if part is not None]
    rank = len(node.args[1].shape)
    if any(part.op != "param" for part in parts) or rank != -CONTRACTIONS[node.op] + 1:
        return None
    outputs, inputs, *kernel = (int(size) for size in node.args[1].shape)
    groups = node.attrs.get("groups", 1)

    def numbers(key: str, default: int) -> Sequence[int]:
        value = node.attrs.get(key, default)
        value = value if isinstance(value, tuple) else (value,)
        return value * len(kernel) if len(value) == 1 else value

    strides, dilations = numbers("stride", 1), numbers("dilation", 1)
    reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    match node.attrs.get("padding", 0):
        case "same":
            before = [total // 2 for total in reach]
            after = [total - total // 2 for total in reach]
        case "valid":
            before = after = [0] * len(kernel)
        case _:
            before = after = numbers("padding", 0)
    windows = map(Window, kernel, strides, dilations, before, after)
    return Form(node.op, outputs, inputs * groups, groups, tuple(windows))


def unit(form: Form) -> Form:
    """The form of a map of each channel by itself."""
    return replace(form, groups=None, windows=(Window(1),) * len(form.windows))
