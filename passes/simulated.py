"""Numbers as codes of a few bits give them back: simulated, to choose by or to learn on.

Rounding counts as the identity where gradients are taken (straight through), so that scales, ranges
and what is rounded can all be learned.
"""

from __future__ import annotations

from typing import Any

import torch

from .rounding import LIMIT
from .rounding import scales as weight_scales


class _Round(torch.autograd.Function):
    """Round half to even; the gradient goes straight through."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return torch.round(value)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0]


def _round(value: torch.Tensor) -> torch.Tensor:
    found: Any = _Round.apply(value)
    return found


def fake_quantize_weights(
    weight: torch.Tensor,
    bits: int,
    group: int | None = None,
    stretch: torch.Tensor | None = None,
) -> torch.Tensor:
    """Weights ``[O, n]`` as codes give them back.

    Args:
        group: How many neighbours share a scale; all of a row where not given.
        stretch: Of each row's range, ``[O, 1]``; what lies outside is clipped.
    """
    if bits == 8 and group is None:
        step = weight_scales(weight)
        if stretch is None:
            return _round(weight / step) * step
        step = step * stretch
        return torch.clamp(_round(weight / step), -LIMIT, LIMIT) * step
    n = weight.shape[1]
    size = n if group is None or n % group else group
    parts = weight.unflatten(1, (-1, size))
    low, high = parts.amin(-1, keepdim=True), parts.amax(-1, keepdim=True)
    low, high = low.clamp(max=0), high.clamp(min=0)
    step = ((high - low) / (2**bits - 1)).clamp(min=1e-12)
    if stretch is not None:
        step = step * stretch[:, None]
        low = low * stretch[:, None]
    zero = _round(-low / step)
    codes = torch.clamp(_round(parts / step) + zero, 0, 2**bits - 1)
    return ((codes - zero) * step).flatten(1)


def fake_quantize(
    rows: torch.Tensor, limits: tuple[torch.Tensor, torch.Tensor], mode: str | None
) -> torch.Tensor:
    """Values ``[..., n]`` as eight bits give them back.

    Args:
        limits: The range of all of them, for static scales.
        mode: ``static``, ``dynamic`` (each row its own scale), ``dynamic-tensor``, or ``None``:
            as they are.
    """
    if mode is None:
        return rows
    if mode == "dynamic":
        step = (rows.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-12)
        return _round(rows / step) * step
    if mode == "dynamic-tensor":
        limits = rows.amin(), rows.amax()
    low, high = limits[0].clamp(max=0), limits[1].clamp(min=0)
    step = ((high - low) / 255).clamp(min=1e-12)
    zero = _round(-low / step)
    return (torch.clamp(_round(rows / step) + zero, 0, 255) - zero) * step
