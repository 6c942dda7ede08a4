"""Random elements of a region's group: what holds for them holds, almost surely, for all."""

from __future__ import annotations

import torch

from ..laws import Kind
from .region import Region


def random_element(region: Region, generator: torch.Generator) -> torch.Tensor:
    """An element that ``apply`` takes, in float64, far from the identity.

    Scales lie between 1/e^2 and e^2 or so, a permutation rotates each cell by one place, matrices
    are drawn for each cell: orthogonal by QR, invertible ones near three times the identity.
    """
    n, groups = region.size, region.groups
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    match region.kind:
        case Kind.SCALE:
            return torch.where(region.fixed, 1.0, noise[groups].exp())
        case Kind.SIGN:
            return torch.where(region.fixed, 1.0, 2.0 * (groups % 2) - 1.0)
        case Kind.SHIFT:
            return torch.where(region.fixed, 0.0, noise[groups])
        case Kind.PERMUTATION:
            permutation = torch.arange(n)
            for members in region.members:
                permutation[members] = members.roll(1)
            return permutation
        case _:
            matrix = torch.zeros(n, n, dtype=torch.float64)
            for members in region.members:
                matrix[members[:, None], members] = _block(region.kind, len(members), generator)
            return matrix


def _block(kind: Kind, n: int, generator: torch.Generator) -> torch.Tensor:
    block = torch.randn(n, n, generator=generator, dtype=torch.float64)
    if kind is Kind.ORTHOGONAL:
        return -torch.linalg.qr(block)[0]
    return block + 3 * torch.eye(n)
