"""int8 codes with a scale for each output channel, as the kernels of integers take them.

With ``pairs`` the codes of neighbours obey the limit of 16-bit sums (``ir.codes``). Few pairs of a
trained matrix come near; a greater scale, searched for each channel, keeps their number low, and
solvers make up for those that remain.
"""

from __future__ import annotations

import torch

from ....ir.codes import paired

LIMIT = 127
STRETCHES = torch.linspace(1.0, 2.0, 11)  # of a scale, for pairs; at twice the least none is left


def scales(weight: torch.Tensor, axes: int = 1) -> torch.Tensor:
    """The scale of each output channel, ``[O, 1, ...]``, from the greatest magnitude; where all is
    zero, 1. Of channels over several ``axes``, ``[E, O, 1, ...]``."""
    peak = weight.abs().amax(dim=tuple(range(axes, weight.dim())), keepdim=True)
    return torch.where(peak > 0, peak / LIMIT, torch.ones_like(peak))


def nearest(weight: torch.Tensor, scale: torch.Tensor, *, pairs: bool = False) -> torch.Tensor:
    """Codes by rounding each weight alone.

    Args:
        weight: ``[O, ...]``; with ``pairs``, ``[O, n]`` in the order that kernels read it.
        scale: Broadcasts.
        pairs: Whether neighbours must obey the limit of 16 bits. The excess is split evenly.
    """
    codes = torch.clamp(torch.round(weight / scale), -LIMIT, LIMIT)
    return (paired(codes) if pairs else codes).to(torch.int8)


def rounded(
    weight: torch.Tensor, *, axes: int = 1, pairs: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes by rounding to the nearest, and the scales."""
    scale = scales(weight, axes)
    if pairs:
        scale = stretched(weight, scale, None)
    return nearest(weight, scale, pairs=pairs), scale


def stretched(
    weight: torch.Tensor, scale: torch.Tensor, importance: torch.Tensor | None
) -> torch.Tensor:
    """The scales, each as many times greater as makes the error of paired codes least."""
    least = torch.full_like(scale, torch.inf)
    best = scale
    for stretch in STRETCHES.to(scale.dtype):
        tried = scale * stretch
        error = (
            paired(torch.clamp(torch.round(weight / tried), -LIMIT, LIMIT)) * tried - weight
        ) ** 2
        if importance is not None:
            error = error * importance
        total = error.sum(1, keepdim=True)
        best = torch.where(total < least, tried, best)
        least = torch.minimum(total, least)
    return best
