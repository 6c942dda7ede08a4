"""Vector codebooks: one code for a few neighbouring numbers.

Points of a lattice near to zero: D_n, integer vectors of even sum, and E8, which is D8 and D8 moved
by one half. And {1, i, -1, -i} for a complex number, chosen by its phase (A50, F7.2). Source of the
search in lattices: Conway and Sloane, Fast quantizing and decoding algorithms for lattice
quantizers and codes, 1982.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import ClassVar

import torch

from ..errors import InputError
from .elements import Element

ROWS = 1 << 10  # vectors compared with all points at once: as many as fit a cache


@dataclass(frozen=True)
class VectorCodebook(Element):
    """Given points, the nearest of which is found by trying all; a tie goes to the first.

    Args:
        title: Its name.
        points: At most 256, all of one dimension.
    """

    title: str
    points: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.points) <= 256 or len({len(point) for point in self.points}) != 1:
            raise InputError("a vector codebook has 2 to 256 points of one dimension")

    @property
    def dimension(self) -> int:
        return len(self.points[0])

    @property
    def name(self) -> str:
        return self.title

    @property
    def bits(self) -> int:
        return (len(self.points) - 1).bit_length()

    @property
    def levels(self) -> int:
        return len(self.points)

    def tabulate(self) -> torch.Tensor:
        return torch.tensor(self.points, dtype=torch.float64)

    @property
    def reach(self) -> float:
        return float(self.table.norm(dim=-1).max())

    def magnitude(self, values: torch.Tensor) -> torch.Tensor:
        return values.norm(dim=-1)

    def saturated(self, values: torch.Tensor) -> torch.Tensor:
        return (self.magnitude(values) > self.reach)[..., None]

    def nearest(self, values: torch.Tensor) -> torch.Tensor:
        rows = values.reshape(-1, self.dimension)
        points = self.table.to(values.device)
        half = points.square().sum(1) / 2
        # |x - p|^2 / 2 less |x|^2 / 2, which is the same for all points
        codes = [
            torch.addmm(half, part, points.T, alpha=-1).min(1).indices
            for part in rows.double().split(ROWS)
        ]
        return torch.cat(codes).to(torch.uint8).reshape(values.shape[:-1])


@dataclass(frozen=True)
class Phase(Element):
    """1, i, -1, -i: of the real and the imaginary part, the greater one's sign.

    The real and the imaginary parts have scales of their own, the mean magnitudes of those that
    are kept. Where both are as great, the real part is.
    """

    scale_free: ClassVar[bool] = True

    @property
    def dimension(self) -> int:
        return 2

    @property
    def name(self) -> str:
        return "phase"

    @property
    def bits(self) -> int:
        return 2

    def tabulate(self) -> torch.Tensor:
        return torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64)

    @property
    def reach(self) -> float:
        return 1.0

    def magnitude(self, values: torch.Tensor) -> torch.Tensor:
        return values.norm(dim=-1)

    def saturated(self, values: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(values, dtype=torch.bool)

    def nearest(self, values: torch.Tensor) -> torch.Tensor:
        imaginary = values[..., 1].abs() > values[..., 0].abs()
        kept = torch.where(imaginary, values[..., 1], values[..., 0])
        return imaginary.to(torch.uint8) + 2 * (kept < 0).to(torch.uint8)


def nearest_d(values: torch.Tensor) -> torch.Tensor:
    """The point of D_n nearest to each vector ``[..., n]``.

    Round each coordinate; where the sum is odd, round the one with the greatest error the other
    way.
    """
    near = torch.round(values)
    error = values - near
    worst = error.abs().argmax(-1, keepdim=True)
    step = torch.where(error.gather(-1, worst) < 0, -1.0, 1.0).to(values.dtype)
    other = near.scatter_add(-1, worst, step)
    odd = near.sum(-1, keepdim=True) % 2 != 0
    return torch.where(odd, other, near)


def nearest_e8(values: torch.Tensor) -> torch.Tensor:
    """The point of E8 nearest to each vector ``[..., 8]``: of D8, or of D8 moved by one half."""
    whole, halves = nearest_d(values), nearest_d(values - 0.5) + 0.5
    closer = (values - halves).square().sum(-1) < (values - whole).square().sum(-1)
    return torch.where(closer[..., None], halves, whole)


@lru_cache
def lattice(name: str) -> VectorCodebook:
    """The 255 points nearest to zero of ``d4`` or ``e8``: zero, and pairs of opposite points.

    The last shell is not whole: of its points those come that are first in lexicographic order.
    One code of 256 is not used, for a set that has a point has its opposite.
    """
    if name == "d4":
        grid = [point for point in product(range(-4, 5), repeat=4) if sum(point) % 2 == 0]
        points = [tuple(float(c) for c in point) for point in grid]
    else:
        points = _shells_of_e8()
    first = (0.0,) * len(points[0])
    upper = sorted((p for p in points if p > first), key=lambda p: (sum(c * c for c in p), p))
    pairs = [side for p in upper[:127] for side in (p, tuple(-c for c in p))]
    return VectorCodebook(name, (first, *pairs))


def _shells_of_e8() -> list[tuple[float, ...]]:
    """The points of E8 whose square is at most 4."""
    whole = [
        point
        for point in product((-1.0, 0.0, 1.0), repeat=8)
        if sum(c * c for c in point) <= 4 and sum(point) % 2 == 0
    ]
    whole += [(0.0,) * i + (c,) + (0.0,) * (7 - i) for i in range(8) for c in (-2.0, 2.0)]
    # three halves and seven halves have the square 4
    halves = list(product((-0.5, 0.5), repeat=8))
    halves += [(*point[:i], 3 * point[i], *point[i + 1 :]) for point in halves for i in range(8)]
    return whole + [point for point in halves if sum(point) % 2 == 0]
