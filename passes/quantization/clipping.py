"""Static ranges of activations: all that was seen, or less where clipping gains more than it costs.

    min over [l, h] of  sum_t sum_j |W_:j|^2 (x_tj - Q_{l,h}(x_tj))^2

What few values need is paid for by all others: a range that leaves out the few has smaller steps.
Each channel counts by the weights that read it, as if errors did not cancel in their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch

from ..calibration import evenly
from ..options import Range
from .values import Coding, Limits

ActivationRange: TypeAlias = Literal["seen", "error"] | float
HELD = Range(0.5, 1, above=True)  # the share of all numbers that a range holds
ROWS = 2048  # of all batches, that ranges are searched by
SHARES = tuple(1 - i / 32 for i in range(28))  # of an end of the range


def sample(batches: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows ``[k, n]`` of all batches, evenly."""
    keep = -(-ROWS // len(batches))
    return torch.cat([evenly(rows, keep) for rows in batches])


def of_share(rows: torch.Tensor, share: float, limits: Limits) -> Limits:
    """The range within limits that holds a share (``HELD``) of all numbers, as many left out at
    either end."""
    ordered = rows.flatten().sort().values
    out = round(len(ordered) * (1 - share) / 2)
    low, high = ordered[out], ordered[-1 - out]
    return (low, high) if out else limits


def least_error(
    rows: torch.Tensor,
    importance: torch.Tensor,
    limits: Limits,
    coded: Callable[[Limits], Coding],
) -> Limits:
    """The range within limits that costs least.

    Both ends are shrunk alike first, then each by itself.

    Args:
        rows: ``[k, n]``.
        importance: What a squared error of each channel costs, ``[n]``.
        coded: How values are quantized with a range.
    """

    def cost(low: float, high: float) -> float:
        found = limits[0] * low, limits[1] * high
        return float(((coded(found).simulate(rows) - rows).square().sum(0) * importance).sum())

    least = cost(1.0, 1.0)
    low = high = 1.0
    candidates: Sequence[Callable[[float], tuple[float, float]]] = (
        lambda share: (share, share),
        lambda share: (share, high),
        lambda share: (low, share),
    )
    for ends in candidates:
        for one, other in [ends(share) for share in SHARES]:
            if (found := cost(one, other)) < least:
                least, low, high = found, one, other
    return limits[0] * low, limits[1] * high
