"""How the weights of contractions become codes, each decided once, whoever else reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from ..ir import Graph, InputError, Node, ops
from ..ir.codes import in_kernel_order, out_of_kernel_order
from ..ir.formats import Format, Quantized, searched
from .insertion import store_codes, store_packed
from .rounding import gptq, gptq_in, rounded


class Stored(Protocol):
    """What was decided for one parameter."""

    @property
    def value(self) -> torch.Tensor:
        """What its codes stand for."""
        ...

    def store(self, graph: Graph, param: Node) -> Node:
        """Put codes in the place of the parameter, and give the op that makes the value."""
        ...


@dataclass(frozen=True)
class Channelwise:
    """int8 codes and a scale for each output channel, as integer kernels take them.

    Args:
        codes: Of the parameter's shape.
        scale: ``[O, 1, ...]``.
    """

    codes: torch.Tensor
    scale: torch.Tensor

    @property
    def value(self) -> torch.Tensor:
        return self.codes.to(self.scale.dtype) * self.scale

    def store(self, graph: Graph, param: Node) -> Node:
        return store_codes(graph, param, self.codes, self.scale)

    def __str__(self) -> str:
        return "int8"


@dataclass(frozen=True)
class InFormat:
    """Packed codes of any format."""

    quantized: Quantized

    @property
    def value(self) -> torch.Tensor:
        return self.quantized.dequantize()

    def store(self, graph: Graph, param: Node) -> Node:
        return store_packed(graph, param, self.quantized)

    def __str__(self) -> str:
        return str(self.quantized.format)


def fits(form: Format, weight: torch.Tensor) -> bool:
    """Whether a format's groups divide a weight."""
    try:
        form.cut(weight.to("meta"))
    except InputError:
        return False
    return True


class WeightRounding:
    """The codes of a graph's weights.

    Args:
        form: The format of linear layers; ``None`` for ``Channelwise``, which
            convolutions have in any case.
        by_gptq: Whether linear layers are rounded by GPTQ, where there is a Hessian.
        pairs: Whether neighbouring int8 codes obey the limit of 16 bits.
    """

    def __init__(self, graph: Graph, form: Format | None, *, by_gptq: bool, pairs: bool) -> None:
        self.graph, self.form, self.by_gptq, self.pairs = graph, form, by_gptq, pairs
        self.tables: dict[Node, Stored] = {}

    def add_table(self, table: Node, form: Format | None, *, multiplied: bool) -> None:
        """Decide for an embedding table; ``multiplied`` says that a contraction reads it too.

        Row by row, to the nearest: a row is read as it is, so no error makes up for another's.
        """
        value = self.graph.value(table)
        if form is not None and fits(form, value):
            self.tables[table] = InFormat(form.quantize(value, searched(form, value)))
        else:
            self.tables[table] = Channelwise(*rounded(value, pairs=self.pairs and multiplied))

    def round(
        self,
        reader: Node,
        hessian: torch.Tensor | None,
        change: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, Stored | None]:
        """What a reader's weights become, and what is to be stored, if that is still to be done.

        Args:
            hessian: Of what it reads.
            change: T, where a linear layer's codes are to stand for ``W + W T``.
        """
        source: Node = reader.args[1]
        if source in self.tables:  # tied to an embedding
            return self.tables[source].value, None
        if source.op != "param":  # quantized before
            return self.read(source), None
        weight = self.graph.value(source)
        if change is not None and reader.op == "linear":
            weight = weight + weight @ change.to(weight.dtype)
        found = self.decide(reader.op, weight, hessian)
        return found.value, found

    def read(self, node: Node) -> torch.Tensor:
        """What stored codes stand for, or a parameter."""
        if node.op == "param":
            return self.graph.value(node)
        values = [None if arg is None else self.graph.value(arg) for arg in node.args]
        return ops.call(node.op, tuple(values), node.attrs)

    def decide(self, op: str, weight: torch.Tensor, hessian: torch.Tensor | None) -> Stored:
        """Codes for a weight ``[O, I, ...]``."""
        importance = None if hessian is None else hessian.diagonal().to(weight.dtype)
        solves = self.by_gptq and op == "linear"
        if self.form is not None and op == "linear" and fits(self.form, weight):
            parameters = searched(self.form, weight, importance)
            if hessian is None or not solves:
                return InFormat(self.form.quantize(weight, parameters))
            return InFormat(gptq_in(self.form, weight, parameters, hessian))
        codes, scale = rounded(in_kernel_order(weight), pairs=self.pairs, importance=importance)
        if hessian is not None and solves:
            codes = gptq(weight, scale, hessian, pairs=self.pairs)
        shape = (len(weight), *(1,) * (weight.dim() - 1))
        return Channelwise(out_of_kernel_order(codes, weight.shape), scale.reshape(shape))
