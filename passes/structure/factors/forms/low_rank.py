"""A product of two thin matrices, ``W ~ B A`` with A ``[r, n]`` and B ``[O, r]``.

The best of its rank, also in the norm of what the layer gives: with ``H = R R'`` that is the
truncated singular value decomposition of ``W R``. A convolution becomes one with r channels and one
of a single position behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .....ir import Node
from .....ir.codes import out_of_kernel_order
from ....quantization.solvers import Hessian, singular
from .form import Fit, Form, Tensors, Writer


@dataclass(frozen=True)
class LowRank(Form):
    """Two linear layers, or convolutions, for one."""

    def refused(self, outputs: int, inputs: int) -> str:
        return ""

    def most(self, outputs: int, inputs: int) -> int:
        return min(outputs, inputs)

    def parameters(self, outputs: int, inputs: int, rank: int) -> int:
        return rank * (outputs + inputs)

    def macs(self, outputs: int, inputs: int, rank: int) -> int:
        return rank * (outputs + inputs)

    def fit(self, weight: torch.Tensor, hessian: Hessian | None, damping: float) -> Fit:
        left, values, right = singular(weight.double(), hessian, damping)
        share = values.sqrt()

        def at(rank: int) -> Tensors:
            return share[:rank, None] * right[:rank], left[:, :rank] * share[:rank]

        return at

    def dense(self, tensors: Tensors) -> torch.Tensor:
        first, second = tensors
        return second @ first

    @property
    def convolves(self) -> bool:
        return True

    def emit(self, writer: Writer, tensors: Tensors) -> Node:
        first, second = tensors
        node, rank = writer.node, len(first)
        if node.op == "linear":
            low = writer.add("linear", writer.data, writer.param("low", first))
            operands = (low, writer.param("high", second))
        else:
            shape = torch.Size([rank, *(int(size) for size in node.args[1].shape[1:])])
            kernel = writer.param("low", out_of_kernel_order(first, shape))
            low = writer.add(node.op, writer.data, kernel, **node.attrs)
            points = second.reshape(*second.shape, *[1] * (len(shape) - 2))
            operands = (low, writer.param("high", points))
        bias = () if writer.bias is None else (writer.bias,)
        return writer.add(node.op, *operands, *bias)
