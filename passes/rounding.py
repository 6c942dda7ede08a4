"""Round a weight matrix to int8 codes: to the nearest, or so that what it computes changes least
(GPTQ, A07).

Both give codes q and a scale s for each output channel, ``W ~ s q``, s from the greatest magnitude.
GPTQ minimises ``tr[(s q - W) H (s q - W)']`` with ``H = sum_t x_t x_t'`` greedily: a column is
rounded, and the columns that are still free take up its error,

    e = (W[:, i] - s q[:, i]) / U[i, i],     W[:, i:] -= e U[i, i:]       U = upper Cholesky factor
    of H^-1

in the order of descending H[i, i]. Source: F6.1.
"""

from __future__ import annotations

import torch

LIMIT = 127


def scales(weight: torch.Tensor) -> torch.Tensor:
    """The scale of each output channel, ``[O, 1, ...]``; a channel of zeros has 1."""
    peak = weight.abs().amax(dim=tuple(range(1, weight.dim())), keepdim=True)
    return torch.where(peak > 0, peak / LIMIT, torch.ones_like(peak))


def nearest(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Codes by rounding each weight alone; ``weight`` is ``[O, ...]``, ``scale`` broadcasts."""
    return torch.clamp(torch.round(weight / scale), -LIMIT, LIMIT).to(torch.int8)


def rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes by rounding to the nearest, and the scales."""
    scale = scales(weight)
    return nearest(weight, scale), scale


def gptq(
    weight: torch.Tensor,
    scale: torch.Tensor,
    hessian: torch.Tensor,
    *,
    damp: float = 0.01,
    block: int = 128,
) -> torch.Tensor:
    """Codes by GPTQ.

    Args:
        weight: ``[O, n]``.
        scale: ``[O, 1]``.
        hessian: ``[n, n]``, in float64.
        damp: What is added to the diagonal, as a part of its mean.
        block: Columns whose errors are carried to the rest at once; it changes the time alone.
    """
    n = weight.shape[1]
    diagonal = hessian.diagonal()
    order = torch.argsort(diagonal, descending=True)
    mean = torch.clamp(diagonal.mean(), min=1e-30)
    damped = hessian[order][:, order] + torch.eye(n, dtype=hessian.dtype) * damp * mean
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper = torch.linalg.cholesky(inverse, upper=True).to(weight.dtype)
    left = weight[:, order].clone()
    codes = torch.empty_like(left)
    for start in range(0, n, block):
        stop = min(start + block, n)
        errors = torch.empty_like(left[:, start:stop])
        for i in range(start, stop):
            column = left[:, i : i + 1]
            codes[:, i : i + 1] = torch.clamp(torch.round(column / scale), -LIMIT, LIMIT)
            error = (column - codes[:, i : i + 1] * scale) / upper[i, i]
            errors[:, i - start : i - start + 1] = error
            left[:, i + 1 : stop] -= error * upper[i, i + 1 : stop]
        left[:, stop:] -= errors @ upper[start:stop, stop:]
    return codes[:, torch.argsort(order)].to(torch.int8)
