"""Sums over windows, with the channels last: vectors are of outputs side by side.

    y[n, p, o] = sum_{t, c} x[n, s p + d t - pad, c] w[t, c, o]

Codes may be read four channels at a time, as processors add their products in one step:

    y[n, p, o] = sum_{t, c, j} x[n, s p + d t - pad, 4 c + j] w[t, c, o, j]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad

from ....ir.types import Dim
from ..builder import Builder, dtype_name

DOT, LANES = 4, 16  # products that one step adds, and the sums that it adds them to


@dataclass(frozen=True)
class Window:
    """How a convolution moves: a number for each axis of space.

    Attributes:
        pads: Before each axis, and then after each.
    """

    strides: list[int]
    pads: list[int]
    dilations: list[int]
    groups: int = 1

    def sums(
        self, b: Builder, x: Any, w: Any, sizes: Sequence[Dim], dtype: torch.dtype, *fill: Any,
        name: str,
    ) -> Any:  # fmt: skip
        """``[N, O, ...]`` of ``x: [N, C, ...]`` and ``w: [..., C, O]``, or ``[..., C / 4, O, 4]``.

        Args:
            sizes: Of the result's axes of space.
            fill: What stands around ``x``, a tensor of one number; by default zero.
        """
        te, t, n, kind = b.te_module, b.tirx, len(self.strides), dtype_name(dtype)
        dots = len(w.ty.shape.values) == n + 3

        def run(x: Any, w: Any, *fill: Any) -> Any:
            x = self._padded(b, x, DOT if dots else 1, *fill)
            steps = [te.reduce_axis((0, size), name=f"t{i}") for i, size in enumerate(w.shape[:n])]
            c = te.reduce_axis((0, w.shape[n]), name="c")
            parts = [te.reduce_axis((0, DOT), name="j")] if dots else []
            wide = t.floordiv(w.shape[n + 1], self.groups)

            def at(batch: Any, *place: Any) -> Any:
                moved = zip(place[:-1], self.strides, steps, self.dilations, strict=True)
                where, o = [p * s + step * d for p, s, step, d in moved], place[-1]
                channel = c * DOT + parts[0] if dots else c
                if self.groups > 1:
                    channel = t.floordiv(o, wide) * w.shape[n] + c
                left, right = x(batch, *where, channel), w(*steps, c, o, *parts)
                return te.sum(left.astype(kind) * right.astype(kind), axis=[*steps, c, *parts])

            return te.compute([x.shape[0], *b.shape(sizes), w.shape[n + 1]], at, name=name)

        last = b.channels_last(x)
        return b.channels_second(b.te(run, last, w, *fill, name=name))

    def _padded(self, b: Builder, x: Any, multiple: int, *fill: Any) -> Any:
        """``[N, ..., C]`` with a margin, and with channels to a multiple."""
        t, n = b.tirx, len(self.strides)
        batch, *sizes, channels = x.shape
        whole = t.floordiv(channels + multiple - 1, multiple) * multiple
        more = not b.analyzer.can_prove_equal(whole, channels)
        if not any(self.pads) and not more:
            return x
        before, after = self.pads[:n], self.pads[n:]

        def at(batch: Any, *place: Any) -> Any:
            source = [i - first for i, first in zip(place[:-1], before, strict=True)]
            inside = [
                part
                for i, size, first, last in zip(source, sizes, before, after, strict=True)
                for part in [i >= 0] * (first > 0) + [i < size] * (last > 0)
            ]
            inside += [place[-1] < channels] if more else []
            outside = b.element(fill[0], (place[-1],)) if fill else t.const(0, str(x.dtype))
            return t.if_then_else(t.all(*inside), x(batch, *source, place[-1]), outside)

        margins = zip(sizes, before, after, strict=True)
        shape = [batch, *(size + first + last for size, first, last in margins), whole]
        return b.te_module.compute(shape, at, name="pad")


def channels_last(weight: torch.Tensor) -> torch.Tensor:
    """``[O, C, ...]`` as ``[..., C, O]``."""
    return weight.permute(*range(2, weight.ndim), 1, 0)


def in_dots(weight: torch.Tensor) -> torch.Tensor:
    """Codes ``[O, C, ...]`` as ``[..., C / 4, O, 4]``, with zeros up to whole vectors."""
    outputs, channels = (-weight.shape[0] % LANES, -weight.shape[1] % DOT)
    whole = pad(weight, (*[0, 0] * (weight.ndim - 2), 0, channels, 0, outputs))
    split = whole.unflatten(1, (-1, DOT))  # [O, C / 4, 4, ...]
    return split.permute(*range(3, split.ndim), 1, 0, 2)
