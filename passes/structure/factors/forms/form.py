"""What a structured form of a matrix is: how it is fitted, what it costs, and the ops that compute
it."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch

from .....ir import Graph, Node
from .....ir.symbols import spelled_out
from ....quantization.solvers import Hessian

Tensors: TypeAlias = tuple[torch.Tensor, ...]
Measure: TypeAlias = Literal["parameters", "macs"]
Fit: TypeAlias = Callable[[int], Tensors]  # of a matrix: by the rank, what stands for it


class Form(abc.ABC):
    """A family of structured matrices ``[O, n]``, all of whose sizes follow from one, the rank: the
    greater, the nearer to any matrix, and exact at ``most``. Forms are frozen dataclasses."""

    @abc.abstractmethod
    def refused(self, outputs: int, inputs: int) -> str:
        """Why a matrix of these sizes has no such form; empty where it has."""

    @abc.abstractmethod
    def most(self, outputs: int, inputs: int) -> int:
        """The least rank at which every matrix is of the form."""

    @abc.abstractmethod
    def parameters(self, outputs: int, inputs: int, rank: int) -> int:
        """How many numbers the form has."""

    @abc.abstractmethod
    def macs(self, outputs: int, inputs: int, rank: int) -> int:
        """How many products one row takes."""

    @abc.abstractmethod
    def fit(self, weight: torch.Tensor, hessian: Hessian | None, damping: float) -> Fit:
        """What is nearest to a matrix in the form.

        Args:
            weight: ``[O, n]``; what is done is done in float64.
            hessian: Of what the matrix reads; without it all inputs count the same.
            damping: What is added to the diagonal of the Hessian, as a part of its mean.
        """

    @abc.abstractmethod
    def dense(self, tensors: Tensors) -> torch.Tensor:
        """The matrix ``[O, n]`` that tensors stand for, through which gradients flow."""

    @abc.abstractmethod
    def emit(self, writer: Writer, tensors: Tensors) -> Node:
        """The ops that compute the layer, bias and all."""

    @property
    def convolves(self) -> bool:
        """Whether it also stands for a convolution's weights, in kernel order."""
        return False

    def cost(self, outputs: int, inputs: int, rank: int, of: Measure) -> int:
        """How many numbers the form has, or how many products one row takes."""
        return (self.parameters if of == "parameters" else self.macs)(outputs, inputs, rank)

    def rank_within(
        self, outputs: int, inputs: int, most: float, of: Measure = "parameters"
    ) -> int:
        """The greatest rank that has at most so many numbers, or products; 0 if none has."""
        low, high = 0, self.most(outputs, inputs)
        while low < high:
            middle = (low + high + 1) // 2
            if self.cost(outputs, inputs, middle, of) <= most:
                low = middle
            else:
                high = middle - 1
        return low

    def __str__(self) -> str:
        return type(self).__name__


class Writer:
    """Writes ops before a layer that they are to stand for."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph, self.node = graph, node

    @property
    def data(self) -> Node:
        return self.node.args[0]

    @property
    def bias(self) -> Node | None:
        return self.node.operand(2)

    def add(self, op: str, /, *args: Any, **attrs: Any) -> Node:
        name, where = f"{self.node.name}_{op}", self.node.where
        return self.graph.add(op, *args, name=name, where=where, before=self.node, **attrs)

    def param(self, name: str, value: torch.Tensor) -> Node:
        """A parameter in the layer's dtype, named after its weight."""
        value = value.to(self.node.args[1].dtype).contiguous()
        return self.graph.param(f"{self.node.args[1].name}_{name}", value, origin=())

    def rows(self, *sizes: int) -> Node:
        """What the layer reads, ``[T, *sizes]``: all positions on one axis, its channels on
        several."""
        lead = self.data.shape[:-1]
        known = [size for size in lead if isinstance(size, int)]
        count = -1 if len(known) < len(lead) else torch.Size(known).numel()
        return self.add("reshape", self.data, shape=(count, *sizes))

    def result(self, rows: Node) -> Node:
        """The layer's result from a value ``[T, ...]`` that holds its channels in order, with the
        bias added."""
        lead = spelled_out(self.graph, self.data.shape[:-1], self.data, before=self.node)
        found = self.add("reshape", rows, shape=(*lead, int(self.node.args[1].shape[0])))
        return found if self.bias is None else self.add("add", found, self.bias)
