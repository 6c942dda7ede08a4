"""k-means of many rows in many clusters (Lloyd), with a weight for each row.

scipy's has no weights, and computes all distances at once: rows times clusters do not fit in memory
for a vocabulary.
"""

from __future__ import annotations

import torch

AT_ONCE = 2048  # rows whose distances are in memory


def clusters(
    rows: torch.Tensor,
    count: int,
    iterations: int,
    generator: torch.Generator,
    power: torch.Tensor,
) -> torch.Tensor:
    """The cluster of each row, ``int64[k]``; every cluster has one.

    Args:
        rows: ``[k, n]``.
        count: How many clusters, at most k.
        iterations: At most so many.
        power: What each row counts, ``[k]``; those that count for nothing are in some cluster too.
    """
    chosen = torch.multinomial(power + 1e-12 * power.sum(), count, generator=generator)
    centers, code_of = rows[chosen], torch.full((len(rows),), -1)
    for _ in range(iterations):
        nearest, distance = _nearest(rows, centers)
        nearest = _filled(nearest, distance * power, count)
        if torch.equal(nearest, code_of):
            break
        code_of = nearest
        centers = means(rows, code_of, count, power)
    return code_of


def means(
    rows: torch.Tensor, code_of: torch.Tensor, count: int, power: torch.Tensor
) -> torch.Tensor:
    """The weighted mean of each cluster's rows, ``[count, n]``."""
    weight = (power / power.mean() + 1e-9).to(rows.dtype)
    sums = torch.zeros(count, rows.shape[1], dtype=rows.dtype)
    sums.index_add_(0, code_of, rows * weight[:, None])
    total = torch.zeros(count, dtype=rows.dtype).index_add_(0, code_of, weight)
    return sums / total[:, None]


def _nearest(rows: torch.Tensor, centers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row, the nearest center and the squared distance to it."""
    length = centers.square().sum(1)
    found: list[torch.Tensor] = []
    least: list[torch.Tensor] = []
    for part in rows.split(AT_ONCE):
        values, places = torch.addmm(length, part, centers.T, alpha=-2).min(1)
        found.append(places)
        least.append((values + part.square().sum(1)).clamp(min=0))
    return torch.cat(found), torch.cat(least)


def _filled(nearest: torch.Tensor, cost: torch.Tensor, count: int) -> torch.Tensor:
    """The same where each empty cluster gets a row of its own: the costliest of those whose
    cluster has others."""
    sizes = torch.bincount(nearest, minlength=count)
    empty = torch.nonzero(sizes == 0).flatten().tolist()
    if not empty:
        return nearest
    nearest = nearest.clone()
    order = iter(torch.argsort(cost, descending=True).tolist())
    for cluster in empty:
        row = next(row for row in order if sizes[nearest[row]] > 1)
        sizes[nearest[row]] -= 1
        nearest[row], sizes[cluster] = cluster, 1
    return nearest
