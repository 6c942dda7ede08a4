"""Where the scales and zero points of a format come from, before anything is rounded.

range    the least and the greatest number of a block
error    the ends, clipped so that sum_i H[i, i] (v_i - w_i)^2 is least  (``ir.formats.searched``)
output   both ends times one of 1, 0.95, .. 0.55, such that (v - w) H_g (v - w)' is least, for
         each row and group g by itself: what the group adds to the output  (A02, F1.4)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch.nn.functional import pad

from ....ir.formats import Format, Parameters, searched
from .hessian import Hessian

Range: TypeAlias = Literal["range", "error", "output"]
FACTORS = tuple(1 - i / 20 for i in range(10))


def of_range(form: Format, weight: torch.Tensor, hessian: Hessian | None) -> Parameters:
    """The whole range."""
    return form.fit(weight)


def by_error(form: Format, weight: torch.Tensor, hessian: Hessian | None) -> Parameters:
    """By the weighted error of the weights."""
    return searched(form, weight, None if hessian is None else hessian.diagonal.to(weight.dtype))


def clipped(form: Format, weight: torch.Tensor, hessian: Hessian | None) -> Parameters:
    """By the error of what the rows of a weight ``[O, n]`` compute, group by group.

    By the error of the weights where there is no Hessian, or a scale is shared by several rows.
    """
    granularity = form.granularity
    groups = granularity.kind == "group"
    scalar = form.element.dimension is None and not form.element.scale_free
    if hessian is None or not scalar or not granularity.by_row:
        return by_error(form, weight, hessian)
    size = granularity.size if groups else weight.shape[1]
    blocks = form.cut(weight.float() if weight.dtype != torch.float64 else weight)
    parts = blocks if groups else blocks.unflatten(1, (1, -1))  # [O, groups, size]
    within = _within(hessian, size, parts.shape[1]).to(blocks.dtype)  # [groups, size, size]
    low, high = form.reduce("amin", blocks), form.reduce("amax", blocks)
    best, least = form.of_range(low, high), torch.full(parts.shape[:2], torch.inf)
    least = least.to(blocks.dtype)
    for factor in FACTORS:
        found = form.of_range(low * factor, high * factor)
        error = (form.rounded(blocks, found) - blocks).view_as(parts).movedim(1, 0)
        cost = ((error @ within) * error).sum(-1).T  # [O, groups]
        better = cost < least
        least = torch.where(better, cost, least)
        best = found.where(better.view_as(found.scale), best)
    return best


def _within(hessian: Hessian, size: int, count: int) -> torch.Tensor:
    """The blocks of a Hessian that belong to groups, ``[groups, size, size]``."""
    missing = size * count - len(hessian.matrix)
    whole = pad(hessian.matrix, (0, missing, 0, missing))
    return torch.stack([whole[i : i + size, i : i + size] for i in range(0, size * count, size)])


RANGES: dict[Range, Callable[[Format, torch.Tensor, Hessian | None], Parameters]] = {
    "range": of_range,
    "error": by_error,
    "output": clipped,
}
