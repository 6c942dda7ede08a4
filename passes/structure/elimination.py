"""Leave out what a contraction reads, and let what stays make up for it (least squares).

A contraction gives ``W x``. With a part x_K of its channels alone, the nearest to that are

    W M x_K + W m,    M = C G^-1,    C = cov(x, x_K),   G = cov(x_K, x_K) + damping
                      m = mean(x) - M mean(x_K), where there is a bias

whatever W is. What is lost with a set S of channels, all others made up for it, is known without
solving for each (the Optimal Brain Surgeon, for sets): with ``P = H^-1``, H the second moments,

    tr(W_S P_SS^-1 W_S'),      then   W -= W_S P_SS^-1 P_S,    P -= P_S' P_SS^-1 P_S

so units are eliminated from the least on, some at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

STEPS = 32  # in which units are eliminated
DAMPING = 0.01  # of the mean diagonal, where a caller has no other


@dataclass
class Moments:
    """Sums over rows: of what is read now, z, and of what is wanted in its place, x.

    Attributes:
        second: ``sum z z'``, ``[n, n]`` in float64.
        cross: ``sum x z'``.
        first, wanted: ``sum z`` and ``sum x``.
    """

    second: torch.Tensor
    cross: torch.Tensor
    first: torch.Tensor
    wanted: torch.Tensor
    count: int = 0

    @classmethod
    def of(cls, rows: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Moments:
        """Of pairs of matrices ``[rows, n]``: what is read, and what is wanted."""
        found: Moments | None = None
        for now, wanted in rows:
            if found is None:
                n = now.shape[1]
                square = torch.zeros(n, n, dtype=torch.float64)
                line = torch.zeros(n, dtype=torch.float64)
                found = cls(square, square.clone(), line, line.clone())
            found.second += (now.T @ now).double()
            found.cross += (wanted.T @ now).double() if wanted is not now else now.T @ now
            found.first += now.sum(0).double()
            found.wanted += wanted.sum(0).double()
            found.count += len(now)
        assert found is not None
        return found

    def fill(
        self, kept: torch.Tensor, *, offset: bool, damping: float = DAMPING
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """How the kept channels give all: ``M [n, kept]`` and ``m [n]``, zeros without offset."""
        inside, count = torch.nonzero(kept).flatten(), max(self.count, 1)
        some = self.second[inside][:, inside] / count
        cross = self.cross[:, inside] / count
        first, wanted = self.first[inside] / count, self.wanted / count
        if offset:
            some, cross = some - first.outer(first), cross - wanted.outer(first)
        matrix = torch.linalg.solve(_damped(some, damping), cross, left=False)
        rest = wanted - matrix @ first if offset else torch.zeros_like(wanted)
        return matrix, rest

    def correct(self, *, offset: bool, damping: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The map that brings what is read to what is wanted, held to the identity: ``[n, n]``, and
        what is to be added, zeros without offset."""
        count = max(self.count, 1)
        first, wanted = self.first / count, self.wanted / count
        second, cross = self.second / count, (self.cross - self.second) / count
        if offset:
            second = second - first.outer(first)
            cross = cross - (wanted - first).outer(first)
        change = torch.linalg.solve(_damped(second, damping), cross, left=False)
        matrix = change + torch.eye(len(change), dtype=change.dtype)
        rest = wanted - matrix @ first if offset else torch.zeros_like(wanted)
        return matrix, rest


@dataclass
class Elimination:
    """What some contractions read together, and the units of it that are left.

    Args:
        second: The second moments of what is read, ``[n, n]``; zeros where nothing was seen.
        weight: What it is multiplied by, ``[rows, n]``.
        unit: The unit of each channel, -1 of those that stay.
        damping: As a part of the mean square of the channels.
    """

    second: torch.Tensor
    weight: torch.Tensor
    unit: torch.Tensor
    damping: float = DAMPING
    inverse: torch.Tensor = field(init=False)
    power: float = field(init=False)

    def __post_init__(self) -> None:
        self.weight = self.weight.to(torch.float64, copy=True)
        power = ((self.weight @ self.second) * self.weight).sum()
        self.power = max(float(power), 1e-300)
        self.inverse = torch.linalg.inv(_damped(self.second, self.damping))

    def losses(self, units: Sequence[int]) -> torch.Tensor:
        """What each unit costs by itself, as a part of the power of the results."""
        found: list[torch.Tensor] = []
        for unit in units:
            inside = torch.nonzero(self.unit == unit).flatten()
            some = self.weight[:, inside]
            corner = self.inverse[inside][:, inside]
            found.append((torch.linalg.solve(corner, some, left=False) * some).sum())
        return torch.stack(found) / self.power

    def single_losses(self, units: Sequence[int]) -> torch.Tensor:
        """The same where each unit is one channel."""
        place = torch.empty(int(self.unit.max()) + 1, dtype=torch.int64)
        place[self.unit[self.unit >= 0]] = torch.nonzero(self.unit >= 0).flatten()
        inside = place[torch.tensor(units)]
        lost = self.weight[:, inside].square().sum(0) / self.inverse.diagonal()[inside]
        return lost / self.power

    def remove(self, units: Sequence[int]) -> None:
        """Leave units out, and let the others make up for them."""
        gone = torch.isin(self.unit, torch.tensor(units))
        inside = torch.nonzero(gone).flatten()
        rows = self.inverse[inside]
        solved = torch.linalg.solve(rows[:, inside], rows)
        self.weight -= self.weight[:, inside] @ solved
        self.inverse -= rows.T @ solved
        self.weight[:, gone] = 0.0
        self.inverse[gone] = self.inverse[:, gone] = 0.0


def order_of_elimination(parts: Sequence[Elimination], count: int) -> torch.Tensor:
    """What is lost with each of so many units when it goes, those before it gone already,
    ``float64[count]``; the greater, the later."""
    left, lost = list(range(count)), torch.zeros(count, dtype=torch.float64)
    floor, each = 0.0, max(1, count // STEPS)
    single = all(bool((torch.bincount(p.unit[p.unit >= 0]) == 1).all()) for p in parts)
    while left:
        of = [p.single_losses(left) if single else p.losses(left) for p in parts]
        found = torch.stack(of).sum(0).clamp(min=0)
        least = torch.argsort(found, stable=True)[:each].tolist()
        for index in least:
            floor = max(floor, float(found[index]))
            lost[left[index]] = floor
        gone = [left[index] for index in least]
        left = [unit for unit in left if unit not in gone]
        for part in parts if left else ():
            part.remove(gone)
    return lost


def _damped(matrix: torch.Tensor, damping: float) -> torch.Tensor:
    """The matrix with a part of its mean diagonal added; the identity where it is zero."""
    mean = matrix.diagonal().mean()
    added = torch.where(mean > 0, damping * mean, torch.ones_like(mean))
    return matrix + added * torch.eye(len(matrix), dtype=matrix.dtype)
