"""Round a weight matrix to codes: to the nearest, or so that what it computes changes least (GPTQ,
A07).

GPTQ minimises ``tr[(V - W) H (V - W)']`` over the matrices V that codes can stand for, with
``H = sum_t x_t x_t'``, greedily: a column is rounded, and the columns that are still free take up
its error,

    e = (W[:, i] - V[:, i]) / U[i, i],     W[:, i:] -= e U[i, i:]       U = upper Cholesky factor of
    H^-1

in the order of descending H[i, i]. It is Babai's nearest plane in the lattice of the codes, whose
basis is a factor of H. Source: F6.1. Any format of single numbers will do; int8 codes q with a
scale s for each output channel, ``V = s q``, are those of the fast kernels.

With ``pairs`` the codes of neighbours obey the limit of 16-bit sums (``ir.codes``). Few pairs of a
trained matrix come near; a greater scale, searched for each channel, keeps their number low, and
GPTQ makes up for those that remain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

from ..ir.codes import PAIR_LIMIT, paired
from ..ir.formats import Format, Parameters, Quantized

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


# Gets a column's number and what is left of it, [O]; gives what its codes stand for.
Column: TypeAlias = Callable[[int, torch.Tensor], torch.Tensor]


def gptq(
    weight: torch.Tensor,
    scale: torch.Tensor,
    hessian: torch.Tensor,
    *,
    pairs: bool = False,
    damp: float = 0.01,
    block: int = 128,
) -> torch.Tensor:
    """int8 codes by GPTQ.

    Args:
        weight: ``[O, n]``.
        scale: ``[O, 1]``.
        hessian: ``[n, n]``, in float64.
        pairs: Whether neighbours must obey the limit of 16 bits: of two, the one that is rounded
            last keeps it.
        damp: What is added to the diagonal, as a part of its mean.
        block: Columns whose errors are carried to the rest at once; it changes the time alone.
    """
    codes = torch.zeros_like(weight)
    done: set[int] = set()

    def column(i: int, values: torch.Tensor) -> torch.Tensor:
        code = torch.clamp(torch.round(values / scale[:, 0]), -LIMIT, LIMIT)
        if pairs and i ^ 1 in done:
            taken = codes[:, i ^ 1]
            high = PAIR_LIMIT - torch.clamp(taken, min=0)
            low = -PAIR_LIMIT - torch.clamp(taken, max=0)
            code = torch.clamp(code, low, high)
        done.add(i)
        codes[:, i] = code
        return code * scale[:, 0]

    _by_columns(weight, hessian, column, damp, block)
    return codes.to(torch.int8)


def gptq_in(
    form: Format,
    weight: torch.Tensor,
    parameters: Parameters,
    hessian: torch.Tensor,
    *,
    damp: float = 0.1,
    block: int = 128,
) -> Quantized:
    """A weight ``[O, n]`` in any format of single numbers, by GPTQ.

    Args:
        parameters: Scales and zero points of the weight's blocks; they stay.
        damp: As above; codes of few bits err by more, and fit more of what is chance in a sample.
    """
    blocks, shape = form.cut(weight), weight.shape
    step = form.join(parameters.step.expand_as(blocks), shape)
    zero = parameters.zero
    offset = torch.zeros_like(step) if zero is None else form.join(zero.expand_as(blocks), shape)
    codes = torch.zeros(shape, dtype=torch.uint8)

    def column(i: int, values: torch.Tensor) -> torch.Tensor:
        steps = values / step[:, i]
        steps = steps if zero is None else torch.round(steps) + offset[:, i]
        codes[:, i] = form.element.nearest(steps)
        return (form.element.decode(codes[:, i], values.dtype) - offset[:, i]) * step[:, i]

    _by_columns(weight, hessian, column, damp, block)
    return Quantized(form, shape, weight.dtype, form.cut(codes), parameters)


def making_up(drift: torch.Tensor, hessian: torch.Tensor, damp: float) -> torch.Tensor:
    """The matrix T with which ``W + W T`` gives from the inputs at hand what W gave from the exact
    ones, as nearly as it can: ``T = D (H + damp mean(diag H) I)^-1`` (A05, F5).

    Args:
        drift: ``D = sum_t (x_t - x'_t) x'_t'``, of the exact inputs x and those at hand x'.
        hessian: ``H = sum_t x'_t x'_t'``, in float64.
        damp: Keeps to W what few rows would fit by chance.
    """
    mean = torch.clamp(hessian.diagonal().mean(), min=1e-30)
    damped = hessian + torch.eye(len(hessian), dtype=hessian.dtype) * damp * mean
    return torch.cholesky_solve(drift.T, torch.linalg.cholesky(damped)).T


def _by_columns(
    weight: torch.Tensor, hessian: torch.Tensor, column: Column, damp: float, block: int
) -> None:
    """Round one column after another, and let the rest take up the errors."""
    n = weight.shape[1]
    diagonal = hessian.diagonal()
    order = torch.argsort(diagonal, descending=True)
    mean = torch.clamp(diagonal.mean(), min=1e-30)
    damped = hessian[order][:, order] + torch.eye(n, dtype=hessian.dtype) * damp * mean
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper = torch.linalg.cholesky(inverse, upper=True).to(weight.dtype)
    left = weight[:, order].clone()
    for start in range(0, n, block):
        stop = min(start + block, n)
        errors = torch.empty_like(left[:, start:stop])
        for i, channel in enumerate(order[start:stop].tolist(), start):
            error = (left[:, i] - column(channel, left[:, i])) / upper[i, i]
            errors[:, i - start] = error
            left[:, i + 1 : stop] -= error[:, None] * upper[i, i + 1 : stop]
        left[:, stop:] -= errors @ upper[start:stop, stop:]
