"""A chain of small tensors, one for each pair of a factor of the outputs and one of the inputs: a
tensor train of matrices, or matrix product operator (A95, F12.3).

    W[i1 ... id, j1 ... jd] ~ sum G1[1, i1, j1, a] G2[a, i2, j2, b] ... Gd[z, id, jd, 1]

over the bonds a, b, ... z, each of at most chi values. Of two tensors it is a sum of chi Kronecker
products (F12.1), and the best of them is a truncated singular value decomposition (Van Loan and
Pitsianis 1993); of more, one decomposition after another is within a factor of sqrt(d - 1) of it.
With a Hessian they are of ``W R``, R R' being the Kronecker product of its partial traces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .....ir import Node
from ....options import Range, check_numbers
from ....quantization.solvers import Hessian
from .form import Fit, Form, Tensors, Writer
from .split import split, unsplittable


@dataclass(frozen=True)
class TensorTrain(Form):
    """A chain of linear layers on parts of the channels.

    Args:
        cores: How many tensors, at least two.
    """

    cores: int = 3

    def __post_init__(self) -> None:
        check_numbers(self, cores=Range(2, whole=True))

    def refused(self, outputs: int, inputs: int) -> str:
        for name, size in (("outputs", outputs), ("inputs", inputs)):
            if split(size, self.cores) is None:
                return unsplittable(name, size, self.cores)
        return ""

    def most(self, outputs: int, inputs: int) -> int:
        return max(_caps(*self._sizes(outputs, inputs)))

    def parameters(self, outputs: int, inputs: int, rank: int) -> int:
        m, n = self._sizes(outputs, inputs)
        bonds = _bonds(m, n, rank)
        return sum(bonds[k] * m[k] * n[k] * bonds[k + 1] for k in range(self.cores))

    def macs(self, outputs: int, inputs: int, rank: int) -> int:
        m, n = self._sizes(outputs, inputs)
        bonds = _bonds(m, n, rank)
        return sum(
            math.prod(m[: k + 1]) * math.prod(n[k:]) * bonds[k] * bonds[k + 1]
            for k in range(self.cores)
        )

    def fit(self, weight: torch.Tensor, hessian: Hessian | None, damping: float) -> Fit:
        m, n = self._sizes(*weight.shape)
        whole = weight.double().reshape(*m, *n)
        roots = [] if hessian is None else _roots(hessian.damped(damping), n)
        for k, root in enumerate(roots):
            whole = (whole.movedim(self.cores + k, -1) @ root).movedim(-1, self.cores + k)
        pairs = [axis for k in range(self.cores) for axis in (k, self.cores + k)]
        whole = whole.permute(pairs).contiguous()  # [m1, n1, m2, n2, ...]

        def at(rank: int) -> Tensors:
            cores = _decomposed(whole, m, n, rank)
            if not roots:
                return cores
            return tuple(_divided(c, r) for c, r in zip(cores, roots, strict=True))

        return at

    def dense(self, tensors: Tensors) -> torch.Tensor:
        d, whole = len(tensors), tensors[0]
        for core in tensors[1:]:
            whole = torch.tensordot(whole, core, dims=1)
        whole = whole.squeeze(0).squeeze(-1)
        whole = whole.permute(*range(0, 2 * d, 2), *range(1, 2 * d, 2))
        return whole.reshape(math.prod(whole.shape[:d]), -1)

    def emit(self, writer: Writer, tensors: Tensors) -> Node:
        left = [core.shape[2] for core in tensors]  # the inputs that are still to be summed over
        x = writer.rows(left.pop(0), math.prod(left), 1, 1)  # [T, n_k, rest, done, bond]
        count = x.shape[0] if isinstance(x.shape[0], int) else -1
        done = 1
        for k, core in enumerate(tensors):
            before, outputs, inputs, after = core.shape
            rest = math.prod(left)
            x = writer.add("permute", x, dims=(0, 2, 3, 1, 4))
            x = writer.add("reshape", x, shape=(count, rest, done, inputs * before))
            matrix = core.permute(1, 3, 2, 0).reshape(outputs * after, inputs * before)
            x = writer.add("linear", x, writer.param(f"core{k + 1}", matrix))
            done *= outputs
            if left:
                size = left.pop(0)
                x = writer.add("reshape", x, shape=(count, size, math.prod(left), done, after))
        return writer.result(x)

    def _sizes(self, outputs: int, inputs: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        m, n = split(outputs, self.cores), split(inputs, self.cores)
        assert m is not None and n is not None, "refused before"
        return m, n

    def __str__(self) -> str:
        return f"TensorTrain of {self.cores}"


@dataclass(frozen=True)
class Kronecker(TensorTrain):
    """A sum of Kronecker products, as many as the rank says: the tensor train of two cores."""

    cores: int = 2

    def __str__(self) -> str:
        return "Kronecker" if self.cores == 2 else super().__str__()


def _caps(m: Sequence[int], n: Sequence[int]) -> list[int]:
    """For each bond, the greatest number of values that it can use."""
    sizes = [a * b for a, b in zip(m, n, strict=True)]
    return [min(math.prod(sizes[:k]), math.prod(sizes[k:])) for k in range(1, len(sizes))]


def _bonds(m: Sequence[int], n: Sequence[int], rank: int) -> list[int]:
    return [1, *(min(rank, cap) for cap in _caps(m, n)), 1]


def _roots(matrix: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
    """Triangular roots of the partial traces of a matrix, one for each factor of its size."""
    d, whole = len(sizes), matrix.reshape(*sizes, *sizes)
    found: list[torch.Tensor] = []
    for k in range(d):
        # The index of each traced factor stands twice, and is summed over.
        rows, columns = list(range(d)), list(range(d))
        columns[k] = d
        part = torch.einsum(whole, [*rows, *columns], [k, d])
        found.append(torch.linalg.cholesky(part / part.diagonal().mean()))
    return found


def _decomposed(
    whole: torch.Tensor, m: Sequence[int], n: Sequence[int], rank: int
) -> tuple[torch.Tensor, ...]:
    """The tensors of a chain from the matrix ``[m1, n1, m2, n2, ...]``, from the left."""
    cores: list[torch.Tensor] = []
    bonds, rest = _bonds(m, n, rank), whole.reshape(1, -1)
    for k in range(len(m) - 1):
        rest = rest.reshape(bonds[k] * m[k] * n[k], -1)
        left, values, right = torch.linalg.svd(rest, full_matrices=False)
        bond = bonds[k + 1]
        cores.append(left[:, :bond].reshape(bonds[k], m[k], n[k], bond))
        rest = values[:bond, None] * right[:bond]
    return (*cores, rest.reshape(bonds[-2], m[-1], n[-1], 1))


def _divided(core: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
    """A tensor ``[a, m, n, b]`` of what was multiplied by a root of its inputs, without that."""
    solved = torch.linalg.solve_triangular(root, core.movedim(2, -1), upper=False, left=False)
    return solved.movedim(-1, 2).contiguous()
