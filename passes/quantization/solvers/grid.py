"""What the codes of a matrix can stand for, place by place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ....ir import InputError
from ....ir.codes import PAIR_LIMIT, paired
from ....ir.formats import Format, Integer, Parameters, Quantized, Scalar
from ....ir.formats.granularity import Granularity
from .channelwise import scales, stretched

INT8 = Integer(8, narrow=True)
CHANNEL_CODES = Format(INT8, Granularity("channel"))  # what integer kernels take
FEW_BITS, EIGHT_BITS = 0.1, 0.01  # codes of few bits fit more of what is chance in a sample


def no_zeros(form: Format) -> str:
    """Why single places cannot be held at zero in a format; empty where they can."""
    if form.element.dimension is not None:
        return f"codes of {form} are vectors, whose numbers are not zero one by one"
    return "" if form.has_zero else f"no code of {form} is zero"


@dataclass(frozen=True, eq=False)
class Grid:
    """The numbers that codes can stand for, with scales and zero points that stay.

    Solvers go through a matrix ``[O, n]`` column by column, so columns are rows here.

    Attributes:
        form: The format.
        parameters: Its scales and zero points, of the matrix's blocks.
        shape: Of the matrix.
        step: What codes are multiplied by, ``[runs, O]``.
        zero: The codes of zero, ``[runs, O]``, or ``None``.
        run: How many neighbouring columns share a row of these; the last of them may be fewer.
        damp: What solvers add to the diagonal of a Hessian, as a part of its mean, where they are
            not told otherwise.
        pairs: Whether neighbouring codes obey the limit of 16 bits.
        held: Where the only number is zero, ``bool[n, O]``; ``None``: nowhere.
    """

    form: Format
    parameters: Parameters
    shape: torch.Size
    step: torch.Tensor
    zero: torch.Tensor | None
    run: int
    damp: float
    pairs: bool = False
    held: torch.Tensor | None = None

    @classmethod
    def of(cls, form: Format, weight: torch.Tensor, parameters: Parameters) -> Grid:
        """The grid of a format for a weight ``[O, n]``."""
        granularity, rows = form.granularity, len(weight)
        runs = -(-weight.shape[1] // max(granularity.size, 1))
        grouped = granularity.kind == "group" and granularity.by_row
        shared = grouped and parameters.scale.numel() == rows * runs

        def by_column(part: torch.Tensor) -> torch.Tensor:
            part = part.reshape(rows, runs) if shared else form.spread(part, weight.shape)
            return part.T.contiguous()

        zero = None if parameters.zero is None else by_column(parameters.zero)
        run = granularity.size if shared else 1
        return cls(form, parameters, weight.shape, by_column(parameters.step), zero, run, FEW_BITS)

    @classmethod
    def channelwise(
        cls, weight: torch.Tensor, importance: torch.Tensor | None = None, *, pairs: bool = False
    ) -> Grid:
        """int8 with a scale for each row of a weight ``[O, n]``; with ``pairs`` each scale is as
        great as makes the error that ``importance`` weighs least."""
        scale = scales(weight)
        if pairs:
            scale = stretched(weight, scale, importance)
        made, shape = Parameters(scale), weight.shape
        return cls(CHANNEL_CODES, made, shape, scale.T, None, shape[1], EIGHT_BITS, pairs)

    def holding(self, zeros: torch.Tensor) -> Grid:
        """The same with nothing but zero in some places, ``bool[O, n]``.

        Raises:
            InputError: No code is zero, or several numbers share one.
        """
        if sentence := no_zeros(self.form):
            raise InputError(sentence, do="choose a format of single numbers with a zero")
        return replace(self, held=zeros.T.contiguous())

    @staticmethod
    def stacked(grids: Sequence[Grid]) -> Grid | None:
        """The grid of matrices one below the other; ``None`` where their rows share scales, or
        their grids differ in more than these."""
        first, parts = grids[0], [grid.parameters for grid in grids]
        if len({(grid.form, grid.damp, grid.pairs, grid.shape[1]) for grid in grids}) > 1:
            return None
        if not first.form.granularity.by_row or any(part.whole is not None for part in parts):
            return None
        zeros = [part.zero for part in parts if part.zero is not None]
        codes = [grid.zero for grid in grids if grid.zero is not None]
        held = None
        if any(grid.held is not None for grid in grids):
            held = torch.cat([grid.places_held() for grid in grids], 1)
        return replace(
            first,
            parameters=Parameters(
                torch.cat([part.scale for part in parts]), None, torch.cat(zeros) if zeros else None
            ),
            shape=torch.Size([sum(grid.shape[0] for grid in grids), first.shape[1]]),
            step=torch.cat([grid.step for grid in grids], 1),
            zero=torch.cat(codes, 1) if codes else None,
            held=held,
        )

    def rows(self, which: slice) -> Grid:
        """The grid of some rows, to round by; it gives no codes."""
        zero = None if self.zero is None else self.zero[:, which]
        held = None if self.held is None else self.held[:, which]
        return replace(self, step=self.step[:, which], zero=zero, held=held)

    def places_held(self) -> torch.Tensor:
        """Where zeros are held, ``bool[n, O]``."""
        if self.held is not None:
            return self.held
        return torch.zeros(self.shape[1], self.shape[0], dtype=torch.bool)

    @property
    def unit(self) -> int:
        """How many neighbouring columns share a code."""
        return self.form.element.dimension or 1

    def round(self, unit: int, values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """The numbers nearest to those given.

        Args:
            unit: Which column, or which group of them that shares a code.
            values: ``[columns of a unit, O]``; of a single column also ``[candidates, O]``.
            chosen: What other columns have, ``[n, ..., O]``, where nothing is chosen yet zero: of
                a pair, the one that is rounded last keeps the limit.
        """
        place = self._rows(unit)
        numbers = values / self.step[place]
        if self.zero is not None:
            numbers = numbers.round_().add_(self.zero[place])
        if self.unit > 1:
            numbers = self.form.element.rounded(numbers.T).T
        else:
            numbers = self.form.element.rounded(numbers)
        return self._number(unit, numbers, chosen)

    def beside(self, unit: int, values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """The numbers next to the nearest, on the other side of the values where there is one; the
        limit of pairs may make both the same. For columns that have codes of their own."""
        element = self.form.element
        assert isinstance(element, Scalar)
        row = unit // self.run
        numbers = values / self.step[row]
        if self.zero is not None:
            numbers = numbers + self.zero[row]
        return self._number(unit, element.beside(numbers), chosen)

    def _number(self, unit: int, numbers: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """What elements stand for, within the limit of pairs."""
        place = self._rows(unit)
        if self.pairs and unit ^ 1 < self.shape[1]:
            taken = torch.round(chosen[unit ^ 1] / self.step[unit // self.run])
            high = PAIR_LIMIT - torch.clamp(taken, min=0)
            low = -PAIR_LIMIT - torch.clamp(taken, max=0)
            numbers = torch.clamp(numbers, low, high)
        if self.zero is not None:
            numbers = numbers - self.zero[place]
        return self.hold(unit, numbers * self.step[place])

    def hold(self, column: int, values: torch.Tensor) -> torch.Tensor:
        """Values of a column, ``[..., O]``, with its zeros."""
        return values if self.held is None else values.masked_fill(self.held[column], 0)

    def _rows(self, unit: int) -> slice:
        """Where the steps and zeros of a unit's columns are."""
        first, last = unit * self.unit, (unit + 1) * self.unit - 1
        return slice(first // self.run, last // self.run + 1)

    def nearest(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight ``[O, n]`` with each number rounded by itself; what a pair exceeds its limit by
        is taken from both."""
        if self.held is not None:
            weight = weight.masked_fill(self.held.T, 0)
        if self.pairs:
            codes = self.form.element.rounded(weight / self.parameters.step)
            return paired(codes) * self.parameters.step
        found = self.form.rounded(self.form.cut(weight), self.parameters)
        return self.form.join(found, weight.shape).to(weight.dtype)  # scales may be of more digits

    def codes(self, values: torch.Tensor) -> Quantized:
        """The codes of numbers of the grid, ``[O, n]``."""
        found = self.form.nearest(self.form.cut(values), self.parameters)
        return Quantized(self.form, self.shape, values.dtype, found, self.parameters)
