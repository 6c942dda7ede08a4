"""Hadamard matrices: orthogonal, with all entries of one size, so that they spread an outlier over
all channels.

Order 2^k is Sylvester's; q + 1 for a prime q = 3 mod 4 and 2 (q + 1) for a prime q = 1 mod 4 are
Paley's; a Kronecker product of two is one again. Source: F8.2.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import scipy.linalg
import torch


def hadamard(n: int) -> torch.Tensor | None:
    """The matrix ``[n, n]`` with entries of +-1 / sqrt(n), in float64; ``None`` for an order for
    which no product of these constructions serves."""
    parts = factors(n)
    return None if parts is None else product(parts)


def product(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The Kronecker product of matrices."""
    return functools.reduce(torch.kron, parts)


def widest(n: int) -> int:
    """The greatest order that divides n and has a matrix."""
    return max(m for m in range(1, n + 1) if n % m == 0 and factors(m) is not None)


@functools.lru_cache(maxsize=64)
def factors(n: int) -> tuple[torch.Tensor, ...] | None:
    """Matrices whose Kronecker product is the Hadamard matrix of order n, small ones first."""
    for size in _orders(n):
        rest = n // size
        if rest & (rest - 1) == 0:
            core = _paley(size)
            power = torch.from_numpy(scipy.linalg.hadamard(rest).astype(np.float64)) / rest**0.5
            return tuple(part for part in (core, power) if len(part) > 1) or (power,)
    return None


def _orders(n: int) -> Sequence[int]:
    """Orders of Paley's that divide n, the least first, and 1."""
    return [m for m in range(1, n + 1) if n % m == 0 and (m == 1 or _kind(m) is not None)]


def _kind(n: int) -> tuple[int, bool] | None:
    """The prime for order n, and whether it takes the second construction."""
    if _is_prime(n - 1) and (n - 1) % 4 == 3:
        return n - 1, False
    if n % 2 == 0 and _is_prime(n // 2 - 1) and (n // 2 - 1) % 4 == 1:
        return n // 2 - 1, True
    return None


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


def _paley(n: int) -> torch.Tensor:
    """The matrix of order n by Paley's constructions."""
    found = _kind(n)
    if found is None:
        return torch.ones(1, 1, dtype=torch.float64)
    q, second = found
    squares = {x * x % q for x in range(1, q)}
    character = torch.tensor([0.0] + [1.0 if x in squares else -1.0 for x in range(1, q)])
    index = torch.arange(q)
    core = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    core[1:, 1:] = character[(index[:, None] - index) % q]
    core[0, 1:] = 1
    core[1:, 0] = 1 if second else -1
    one = torch.eye(q + 1, dtype=torch.float64)
    if not second:
        return (one + core) / n**0.5
    plus = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    minus = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    return (torch.kron(core, plus) + torch.kron(one, minus)) / n**0.5
