"""Block-diagonal matrices with a permutation between: Monarch, or a block tensor train (A21,
F12.2).

With outputs ``i = (i1, i2)`` and inputs ``j = (j1, j2)``,

    W[i1 i2, j1 j2] ~ sum_s L[i2, j1, s, i1] R[j1, j2, i2, s]

so for each (i2, j1) the slice over (i1, j2) is a matrix of rank s, and the best are those of their
singular value decompositions. With a Hessian each slice is weighted by the block that is its own:
best where inputs of different j1 are uncorrelated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .....ir import Node
from ....quantization.solvers import Hessian
from .form import Fit, Form, Tensors, Writer
from .split import split, unsplittable


@dataclass(frozen=True)
class Monarch(Form):
    """Two products of blocks for one matrix; rank 1 is Monarch."""

    def refused(self, outputs: int, inputs: int) -> str:
        if split(outputs, 2) is None:
            return unsplittable("outputs", outputs, 2)
        return "" if split(inputs, 2) is not None else unsplittable("inputs", inputs, 2)

    def most(self, outputs: int, inputs: int) -> int:
        m1, _, _, n2 = _sizes(outputs, inputs)
        return min(m1, n2)

    def parameters(self, outputs: int, inputs: int, rank: int) -> int:
        m1, m2, n1, n2 = _sizes(outputs, inputs)
        return n1 * m2 * rank * (n2 + m1)

    def macs(self, outputs: int, inputs: int, rank: int) -> int:
        return self.parameters(outputs, inputs, rank)

    def fit(self, weight: torch.Tensor, hessian: Hessian | None, damping: float) -> Fit:
        m1, m2, n1, n2 = _sizes(*weight.shape)
        slices = weight.double().reshape(m1, m2, n1, n2).permute(1, 2, 0, 3)  # [m2, n1, m1, n2]
        roots = None
        if hessian is not None:
            blocks = hessian.damped(damping).reshape(n1, n2, n1, n2)
            roots = torch.linalg.cholesky(blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0))
            slices = slices @ roots
        left, values, right = torch.linalg.svd(slices, full_matrices=False)
        if roots is not None:
            right = torch.linalg.solve_triangular(roots, right, upper=False, left=False)
        share = values.sqrt()
        left, right = left * share[..., None, :], share[..., None] * right

        def at(rank: int) -> Tensors:
            first = right[:, :, :rank].permute(1, 3, 0, 2).reshape(n1, n2, m2 * rank)
            second = left[..., :rank].permute(0, 1, 3, 2).reshape(m2, n1 * rank, m1)
            return first, second

        return at

    def dense(self, tensors: Tensors) -> torch.Tensor:
        first, second = tensors
        (n1, n2, _), (m2, _, m1) = first.shape, second.shape
        blocks = torch.einsum(
            "mjso,jims->omji",
            second.unflatten(1, (n1, -1)),
            first.unflatten(2, (m2, -1)),
        )
        return blocks.reshape(m1 * m2, n1 * n2)

    def emit(self, writer: Writer, tensors: Tensors) -> Node:
        first, second = tensors
        (n1, n2, _), (m2, _, _) = first.shape, second.shape
        rank = first.shape[2] // m2
        x = writer.add("permute", writer.rows(n1, n2), dims=(1, 0, 2))  # [n1, T, n2]
        count = x.shape[1] if isinstance(x.shape[1], int) else -1
        x = writer.add("bmm", x, writer.param("first", first))  # [n1, T, m2 s]
        x = writer.add("reshape", x, shape=(n1, count, m2, rank))
        x = writer.add("permute", x, dims=(2, 1, 0, 3))  # [m2, T, n1, s]
        x = writer.add("reshape", x, shape=(m2, count, n1 * rank))
        x = writer.add("bmm", x, writer.param("second", second))  # [m2, T, m1]
        return writer.result(writer.add("permute", x, dims=(1, 2, 0)))


def _sizes(outputs: int, inputs: int) -> tuple[int, int, int, int]:
    """m1, m2, n1 and n2."""
    (m1, m2), (n1, n2) = split(outputs, 2) or (1, outputs), split(inputs, 2) or (1, inputs)
    return m1, m2, n1, n2
