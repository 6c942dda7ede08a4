"""How the weights of contractions become codes, each decided once, whoever else reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ...ir import Graph, InputError, Node
from ...ir.codes import in_kernel_order, out_of_kernel_order
from ...ir.formats import Format, Packed, Parameters, Quantized, named, searched
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
    solved,
)

journaled(Packed)
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

    packed: Packed

    @classmethod
    def of(cls, quantized: Quantized) -> InFormat:
        return cls(quantized.pack())

    @property
    def value(self) -> torch.Tensor:
        return self.quantized.dequantize()

    @property
    def quantized(self) -> Quantized:
        return self.packed.unpack()

    def changed(self, quantized: Quantized) -> InFormat:
        return InFormat.of(quantized)

    def store(self, graph: Graph, param: Node) -> Node:
        return store_packed(graph, param, self.packed)

    def __str__(self) -> str:
        return str(self.packed.format)


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
        solver: How weights are rounded, where there is a Hessian; without, to the nearest.
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
        self.ahead: dict[Node, Stored] = {}

    def by_itself(self, weight: Node) -> Stored:
        """Codes for a weight whatever reads it, row by row, to the nearest.

        A row of an embedding table is read as it is, so no error makes up for another's; and what
        makes up for one of what several values meet may add to that of another.
        """
        value, form = self.graph.value(weight), self.form
        if form is not None and self._fits(value):
            return InFormat.of(form.quantize(value, searched(form, value)))
        return _channelwise(*rounded(in_kernel_order(value), pairs=self.pairs), value.shape)

    def read(self, node: Node) -> torch.Tensor:
        """What stored codes stand for, a parameter, or one that has its codes ahead."""
        if node in self.ahead:
            return self.ahead[node].value
        return stored_value(self.graph, node)

    def format_of(self, op: str, weight: torch.Tensor) -> Format:
        """That a weight of an op gets."""
        return self._own(op, weight) or CHANNEL_CODES

    def decide(
        self,
        op: str,
        weights: Sequence[torch.Tensor],
        hessian: Hessian | None,
        held: Sequence[torch.Tensor | None] = (),
    ) -> list[Stored]:
        """Codes for weights ``[O, I, ...]`` of one op, which read the same rows.

        Args:
            hessian: Of what they read.
            held: Where each stays zero, ``bool[O, I, ...]``, in a format that can; ``None``:
                nowhere.
        """
        linear = op == "linear"
        forms = [self._own(op, weight) for weight in weights]
        rows = [in_kernel_order(weight) for weight in weights]
        zeros = [None if part is None else in_kernel_order(part) for part in held]
        grids = [
            self._grid(form, part, hessian, none)
            for form, part, none in zip(forms, rows, zeros or [None] * len(rows), strict=True)
        ]
        if hessian is None:
            solutions = [Nearest().solve(p, hessian, g) for p, g in zip(rows, grids, strict=True)]
        else:
            solutions = solved(self.solver, rows, hessian, grids)
        if any(solution.outliers is not None for solution in solutions):
            raise InputError(
                "outliers beside codes cannot be stored in a graph",
                do="ask Quantize for low_rank=..., or use the solver by itself",
            )
        found: list[Stored] = []
        for form, weight, grid, solution in zip(forms, weights, grids, solutions, strict=True):
            stored = self._stored(form, weight.shape, grid, grid.codes(solution.values))
            if self.rank and linear:
                parts = low_rank(weight - stored.value, self.rank, hessian)
                stored = Compensated(stored, *(Channelwise(*rounded(part)) for part in parts))
            found.append(stored)
        return found

    def _own(self, op: str, weight: torch.Tensor) -> Format | None:
        return self.form if op == "linear" and self._fits(weight) else None

    def _fits(self, weight: torch.Tensor) -> bool:
        return self.form is not None and fits(self.form, weight)

    @staticmethod
    def _stored(form: Format | None, shape: torch.Size, grid: Grid, found: Quantized) -> Stored:
        if form is not None:
            return InFormat.of(found)
        return _channelwise(INT8.integers(found.codes), grid.parameters.scale, shape)

    def _grid(
        self,
        form: Format | None,
        rows: torch.Tensor,
        hessian: Hessian | None,
        held: torch.Tensor | None,
    ) -> Grid:
        """What codes of rows ``[O, n]`` can stand for; without a format, int8."""
        if held is not None:  # what is made up for there is no number that a range must reach
            rows = rows.masked_fill(held, 0)
        if form is not None:
            grid = Grid.of(form, rows, RANGES[self.ranges](form, rows, hessian))
        else:
            importance = None if hessian is None else hessian.diagonal.to(rows.dtype)
            grid = Grid.channelwise(rows, importance, pairs=self.pairs)
        return grid if held is None else grid.holding(held)


def _channelwise(codes: torch.Tensor, scale: torch.Tensor, shape: torch.Size) -> Channelwise:
    """Codes of rows as kernels read them, as those of a weight of a shape."""
    scale = scale.reshape(-1, *(1,) * (len(shape) - 1))
    return Channelwise(out_of_kernel_order(codes, shape), scale)
