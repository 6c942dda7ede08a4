"""How the weights of contractions become codes, each decided once, whoever else reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ...ir import Graph, InputError, Node
from ...ir.codes import in_kernel_order, out_of_kernel_order
from ...ir.formats import Format, Parameters, Quantized, named, searched
from ...ir.interpret import stored_value
from ..journal import journaled, readable
from .insertion import add_branch, store_codes, store_packed
from .solvers import (
    CHANNEL_CODES,
    INT8,
    RANGES,
    Grid,
    Hessian,
    Nearest,
    Range,
    Solver,
    low_rank,
    rounded,
)

journaled(Parameters)
journaled(Quantized)
readable(named)  # a format is its name


class Stored(Protocol):
    """What was decided for one parameter."""

    @property
    def value(self) -> torch.Tensor:
        """What its codes stand for."""
        ...

    @property
    def quantized(self) -> Quantized:
        """Its codes in the terms of formats."""
        ...

    def changed(self, quantized: Quantized) -> Stored:
        """The same way of storing, of other codes."""
        ...

    def store(self, graph: Graph, param: Node) -> Node:
        """Put codes in the place of the parameter, and give the op that makes the value."""
        ...


@journaled
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

    @property
    def quantized(self) -> Quantized:
        shape, dtype, codes = self.codes.shape, self.scale.dtype, self.codes.view(torch.uint8)
        return Quantized(CHANNEL_CODES, shape, dtype, codes, Parameters(self.scale))

    def changed(self, quantized: Quantized) -> Channelwise:
        return Channelwise(quantized.codes.view(torch.int8), quantized.parameters.scale)

    def store(self, graph: Graph, param: Node) -> Node:
        return store_codes(graph, param, self.codes, self.scale)

    def __str__(self) -> str:
        return "int8"


@journaled
@dataclass(frozen=True)
class InFormat:
    """Packed codes of any format."""

    quantized: Quantized

    @property
    def value(self) -> torch.Tensor:
        return self.quantized.dequantize()

    def changed(self, quantized: Quantized) -> InFormat:
        return InFormat(quantized)

    def store(self, graph: Graph, param: Node) -> Node:
        return store_packed(graph, param, self.quantized)

    def __str__(self) -> str:
        return str(self.quantized.format)


@journaled
@dataclass(frozen=True)
class Compensated:
    """Codes, and a product of two thin matrices beside them: ``W ~ V + B A``.

    Args:
        codes: V.
        first: A, ``[r, n]``, in int8 as well.
        second: B, ``[O, r]``, the same.
    """

    codes: Stored
    first: Channelwise
    second: Channelwise

    @property
    def value(self) -> torch.Tensor:
        return self.codes.value + self.second.value @ self.first.value

    @property
    def quantized(self) -> Quantized:
        return self.codes.quantized

    def changed(self, quantized: Quantized) -> Compensated:
        return replace(self, codes=self.codes.changed(quantized))

    def store(self, graph: Graph, param: Node) -> Node:
        return self.codes.store(graph, param)

    def attach(self, graph: Graph, reader: Node) -> None:
        """Let a linear layer that reads V give what V + B A gives."""
        names = {"low": self.first, "high": self.second}
        params = [graph.param(f"{reader.name}_{n}_weight", p.value) for n, p in names.items()]
        add_branch(graph, reader, *params)
        for part, param in zip(names.values(), params, strict=True):
            part.store(graph, param)

    def __str__(self) -> str:
        return f"{self.codes} and rank {len(self.first.codes)}"


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
        form: The format of linear layers and tables; ``None`` for ``Channelwise``, which
            convolutions have in any case.
        solver: How linear layers are rounded, where there is a Hessian; without, to the nearest.
        ranges: Where the scales of the format come from.
        rank: Of the matrix that makes up for what a linear layer loses; 0 for none.
        pairs: Whether neighbouring int8 codes obey the limit of 16 bits.
    """

    def __init__(
        self,
        graph: Graph,
        form: Format | None,
        *,
        solver: Solver,
        ranges: Range = "error",
        rank: int = 0,
        pairs: bool,
    ) -> None:
        self.graph, self.form, self.solver = graph, form, solver
        self.ranges: Range = ranges
        self.rank, self.pairs = rank, pairs
        self.tables: dict[Node, Stored] = {}

    def of_table(self, table: Node, *, multiplied: bool) -> Stored:
        """Codes for an embedding table; ``multiplied`` says that a contraction reads it too.

        Row by row, to the nearest: a row is read as it is, so no error makes up for another's.
        """
        value, form = self.graph.value(table), self.form
        if form is not None and fits(form, value):
            return InFormat(form.quantize(value, searched(form, value)))
        return Channelwise(*rounded(value, pairs=self.pairs and multiplied))

    def round(
        self,
        reader: Node,
        hessian: Hessian | None,
        aim: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, Stored | None]:
        """What a reader's weights become, and what is to be stored, if that is still to be done.

        Args:
            hessian: Of what it reads.
            aim: What the codes of a linear layer are to stand for instead of its weight.
        """
        source: Node = reader.args[1]
        if source in self.tables:  # tied to an embedding
            return self.tables[source].value, None
        if source.op != "param":  # quantized before
            return self.read(source), None
        weight = self.graph.value(source)
        if aim is not None and reader.op == "linear":
            weight = aim(weight)
        found = self.decide(reader.op, weight, hessian)
        return found.value, found

    def read(self, node: Node) -> torch.Tensor:
        """What stored codes stand for, or a parameter."""
        return stored_value(self.graph, node)

    def decide(self, op: str, weight: torch.Tensor, hessian: Hessian | None) -> Stored:
        """Codes for a weight ``[O, I, ...]``."""
        form = self.form
        if op != "linear" or form is None or not fits(form, weight):
            form = None
        rows = in_kernel_order(weight)
        grid = self._grid(form, rows, hessian)
        if hessian is None or op != "linear":
            solution = Nearest().solve(rows, hessian, grid)
        else:
            solution = self.solver.solve(rows, hessian, grid)
        if solution.outliers is not None:
            raise InputError(
                "outliers beside codes cannot be stored in a graph",
                do="ask Quantize for low_rank=..., or use the solver by itself",
            )
        stored = self._stored(form, weight.shape, grid, grid.codes(solution.values))
        if not self.rank or op != "linear":
            return stored
        found = low_rank(weight - stored.value, self.rank, hessian)
        return Compensated(stored, *(Channelwise(*rounded(part)) for part in found))

    @staticmethod
    def _stored(form: Format | None, shape: torch.Size, grid: Grid, found: Quantized) -> Stored:
        if form is not None:
            return InFormat(found)
        codes = out_of_kernel_order(INT8.integers(found.codes), shape)
        return Channelwise(codes, grid.parameters.scale.reshape(-1, *(1,) * (len(shape) - 1)))

    def _grid(self, form: Format | None, rows: torch.Tensor, hessian: Hessian | None) -> Grid:
        """What codes of rows ``[O, n]`` can stand for; without a format, int8."""
        if form is not None:
            return Grid.of(form, rows, RANGES[self.ranges](form, rows, hessian))
        importance = None if hessian is None else hessian.diagonal.to(rows.dtype)
        return Grid.channelwise(rows, importance, pairs=self.pairs)
