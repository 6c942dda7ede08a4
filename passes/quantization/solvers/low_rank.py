"""What rounding lost, as a product of two thin matrices (LoRC, A55, F4.5).

    B A ~ W - V,    A [r, n], B [O, r]

of the least squared error, or with a Hessian of the least error of what the layer computes: then
``(W - V) R`` with ``H = R R'`` is what the singular value decomposition is of.
"""

from __future__ import annotations

import torch

from .hessian import Hessian


def singular(
    matrix: torch.Tensor, hessian: Hessian | None, damp: float = 0.01
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``matrix = left diag(values) right``, ``[O, k]``, ``[k]`` and ``[k, n]``, whose first r terms
    are the best approximation of rank r in the norm of the Hessian.

    Args:
        damp: What is added to the diagonal of the Hessian, as a part of its mean.
    """
    if hessian is None:
        return torch.linalg.svd(matrix, full_matrices=False)
    root = torch.linalg.cholesky(hessian.damped(damp)).to(matrix.dtype)  # H = R R'
    left, values, right = torch.linalg.svd(matrix @ root, full_matrices=False)
    return left, values, torch.linalg.solve_triangular(root, right, upper=False, left=False)


def low_rank(
    error: torch.Tensor, rank: int, hessian: Hessian | None, damp: float = 0.01
) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B, which share the singular values evenly.

    Args:
        error: ``W - V``, ``[O, n]``.
        rank: r; not more than the matrix has.
        damp: What is added to the diagonal of the Hessian, as a part of its mean.
    """
    left, values, right = singular(error, hessian, damp)
    share = values[:rank].sqrt()
    return share[:, None] * right[:rank], left[:, :rank] * share
