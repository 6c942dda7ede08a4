"""Round a weight matrix to int8 codes: to the nearest, or so that what it computes changes least
(GPTQ, A07).

Both give codes q and a scale s for each output channel, ``W ~ s q``. GPTQ minimises
``tr[(s q - W) H (s q - W)']`` with ``H = sum_t x_t x_t'`` greedily: a column is rounded, and the
columns that are still free take up its error,

    e = (W[:, i] - s q[:, i]) / U[i, i],     W[:, i:] -= e U[i, i:]       U = upper Cholesky factor
    of H^-1

in the order of descending H[i, i]. Source: F6.1.

With ``pairs`` the codes of neighbours obey the limit of 16-bit sums (``ir.codes``). Few pairs of a
trained matrix come near; a greater scale, searched for each channel, keeps their number low, and
GPTQ makes up for those that remain.
"""

from __future__ import annotations

import torch

from ..ir.codes import PAIR_LIMIT, paired

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
    weight: torch.Tensor,
    *,
    axes: int = 1,
    pairs: bool = False,
    importance: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes by rounding to the nearest, and the scales; ``importance`` weighs the columns' errors
    where scales are searched."""
    scale = scales(weight, axes)
    if pairs:
        scale = _stretched(weight, scale, importance)
    return nearest(weight, scale, pairs=pairs), scale


def _stretched(
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


def gptq(
    weight: torch.Tensor,
    scale: torch.Tensor,
    hessian: torch.Tensor,
    *,
    pairs: bool = False,
    damp: float = 0.01,
    block: int = 128,
) -> torch.Tensor:
    """Codes by GPTQ.

    Args:
        weight: ``[O, n]``.
        scale: ``[O, 1]``.
        hessian: ``[n, n]``, in float64.
        pairs: Whether neighbours must obey the limit of 16 bits: of two, the one that is rounded
            last keeps it.
        damp: What is added to the diagonal, as a part of its mean.
        block: Columns whose errors are carried to the rest at once; it changes the time alone.
    """
    n = weight.shape[1]
    diagonal = hessian.diagonal()
    order = torch.argsort(diagonal, descending=True)
    place = torch.argsort(order).tolist()
    mean = torch.clamp(diagonal.mean(), min=1e-30)
    damped = hessian[order][:, order] + torch.eye(n, dtype=hessian.dtype) * damp * mean
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper = torch.linalg.cholesky(inverse, upper=True).to(weight.dtype)
    left = weight[:, order].clone()
    codes = torch.empty_like(left)
    for start in range(0, n, block):
        stop = min(start + block, n)
        errors = torch.empty_like(left[:, start:stop])
        for i, channel in enumerate(order[start:stop].tolist(), start):
            column = left[:, i : i + 1]
            code = torch.clamp(torch.round(column / scale), -LIMIT, LIMIT)
            neighbour = channel ^ 1
            if pairs and neighbour < n and place[neighbour] < i:
                taken = codes[:, place[neighbour], None]
                high = PAIR_LIMIT - torch.clamp(taken, min=0)
                low = -PAIR_LIMIT - torch.clamp(taken, max=0)
                code = torch.clamp(code, low, high)
            codes[:, i : i + 1] = code
            error = (column - code * scale) / upper[i, i]
            errors[:, i - start : i - start + 1] = error
            left[:, i + 1 : stop] -= error * upper[i, i + 1 : stop]
        left[:, stop:] -= errors @ upper[start:stop, stop:]
    return codes[:, place].to(torch.int8)
