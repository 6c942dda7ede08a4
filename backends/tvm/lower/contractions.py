"""Matrix products, and look-ups in a table."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from ....ir import Node
from ....ir.graph import Arg
from ...lowering import Declined, rank
from ..builder import Builder
from . import codes


def transposed(b: Builder, weight: Node) -> Any:
    """A weight ``[O, I]`` as ``[I, O]``, whose rows vector units read side by side.

    A parameter is held in that layout, unless something else reads it as it is.
    """
    if weight.op == "param" and all(_as_weight(reader, weight) for reader in weight.users):
        return b.parameter(weight, "transposed", torch.Tensor.t)
    return b.op("permute_dims", b.tensor(weight), [1, 0])


def _as_weight(user: Node, weight: Node) -> bool:
    if user.op != "linear":
        return False
    return all((arg is weight) == (i == 1) for i, arg in enumerate(user.args))


def linear(b: Builder, node: Node, input: Node, weight: Node, bias: Arg = None) -> Any:
    if rank(weight) != 2:
        raise Declined("with a weight that is no matrix")
    product = codes.linear(b, node, input, weight)
    if product is None:
        product = b.op("matmul", b.tensor(input), transposed(b, weight))
    return biased(b, node, product, bias)


def biased(b: Builder, node: Node, product: Any, bias: Arg) -> Any:
    if bias is None:
        return product
    return b.map(node.shape, operator.add, product, b.tensor(bias), name="bias")


def matmul(b: Builder, node: Node, self: Arg, other: Arg) -> Any:
    return b.op("matmul", b.tensor(self), b.tensor(other))


def bmm(b: Builder, node: Node, self: Arg, mat2: Arg) -> Any:
    return matmul(b, node, self, mat2)


def addmm(
    b: Builder, node: Node, self: Arg, mat1: Arg, mat2: Arg, beta: float = 1, alpha: float = 1
) -> Any:
    if beta != 1 or alpha != 1:
        raise Declined("with factors")
    return biased(b, node, matmul(b, node, mat1, mat2), self)


def embedding(b: Builder, node: Node, weight: Node, indices: Node) -> Any:
    found = codes.embedding(b, node, weight, indices)
    if found is not None:
        return found
    places = rank(indices)

    def at(table: Any, rows: Any, *place: Any) -> Any:
        return table(rows(*place[:places]), *place[places:])

    return b.compute(node.shape, at, b.tensor(weight), b.tensor(indices), name="embedding")


def grouped_mm(b: Builder, node: Node, input: Node, weight: Node, offsets: Node) -> Any:
    """Each row by the matrix of its group: of all whose end lies before it, the next."""
    te, t = b.te_module, b.tirx
    groups, deep = int(weight.shape[0]), b.size(weight.shape[1])

    def run(x: Any, w: Any, ends: Any) -> Any:
        before = te.reduce_axis((0, groups), name="before")
        group = te.compute(
            (x.shape[0],),
            lambda row: te.sum((ends(before) <= row).astype("int64"), axis=before),
            name="group",
        )
        k = te.reduce_axis((0, deep), name="k")
        product = te.compute(
            (x.shape[0], w.shape[2]),
            lambda row, o: te.sum(
                x(row, k) * w(t.min(group(row), b.size(groups - 1)), k, o), axis=k
            ),
            name="product",
        )
        zero = b.number(0, node.dtype)
        return te.compute(
            (x.shape[0], w.shape[2]),
            lambda row, o: t.Select(group(row) < groups, product(row, o), zero),
            name="grouped_mm",
        )

    operands = b.tensor(input), b.tensor(weight), b.tensor(offsets, torch.int64)
    return b.te(run, *operands, name="grouped_mm")


LOWERINGS: dict[str, Callable[..., Any]] = {
    "grouped_mm": grouped_mm,
    "linear": linear,
    "matmul": matmul,
    "aten.mm.default": bmm,
    "aten.addmm.default": addmm,
    "bmm": bmm,
    "embedding": embedding,
}
