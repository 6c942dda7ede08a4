"""Elements: finite sets of numbers, each with a code of at most eight bits.

A code is the bit pattern of the number's standard, held in a ``uint8`` (an int4 -3 is 13, not -3):
it is the index of the number in the element's table, and packs as it is. The table is the
definition; everything faster must agree with it. Every element saturates, and none takes NaN or
infinity: codes that a standard keeps for these stand in the table, and are never given out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import ClassVar, Literal, TypeAlias

import torch

from ..errors import InputError
from ..finite import is_finite

Ties: TypeAlias = Literal["even", "down", "zero"]


class Element(ABC):
    """What all elements share; they are immutable, and equal when their fields are.

    Attributes:
        scale_free: Whether codes do not depend on the scale; the scale, one for each coordinate,
            then follows from the codes by least squares.
    """

    scale_free: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """As users write it."""

    @property
    @abstractmethod
    def bits(self) -> int:
        """Of a code."""

    @property
    def levels(self) -> int:
        """How many codes there are: those that are packed."""
        return 2**self.bits

    @property
    def dimension(self) -> int | None:
        """How many numbers share a code, of vectors: values are ``[..., k, d]``, codes
        ``[..., k]``."""
        return None

    @abstractmethod
    def tabulate(self) -> torch.Tensor:
        """Make the table."""

    @cached_property
    def table(self) -> torch.Tensor:
        """The number of each code, ``[codes]`` or ``[codes, d]`` in float64; NaN where a code
        stands for none."""
        return self.tabulate()

    @property
    @abstractmethod
    def reach(self) -> float:
        """The magnitude that stands on either side of zero, where both sides are there."""

    @abstractmethod
    def nearest(self, values: torch.Tensor) -> torch.Tensor:
        """Codes of numbers that are known to be finite."""

    @cached_property
    def outermost(self) -> float:
        """The greatest magnitude there is."""
        numbers = self.table if self.dimension is None else self.table.norm(dim=-1)
        return float(numbers[numbers.isfinite()].abs().max())

    def magnitude(self, values: torch.Tensor) -> torch.Tensor:
        """What is compared with ``reach``: one number for each code."""
        return values.abs()

    @abstractmethod
    def saturated(self, values: torch.Tensor) -> torch.Tensor:
        """Where numbers lie beyond what the element reaches; false for NaN."""

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        """Codes, ``uint8``, of the numbers nearest to those given."""
        refuse_non_finite(values, self.name)
        return self.nearest(values)

    def rounded(self, values: torch.Tensor) -> torch.Tensor:
        """The numbers nearest to those given, which are known to be finite; a new tensor."""
        return self.decode(self.nearest(values), values.dtype)

    def decode(self, codes: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The numbers that codes stand for."""
        return self.table.to(codes.device, dtype)[codes.int()]

    def __str__(self) -> str:
        return self.name


class Scalar(Element):
    """An element of single numbers, rounded to the nearest.

    A tie goes to the even code (integers and floating point), to the number below, or to the one
    nearer to zero, as ``ties`` says.
    """

    @property
    def ties(self) -> Ties:
        return "even"

    @property
    def reach(self) -> float:
        return min(-self.low, self.high) if self.low < 0 else self.high

    @property
    def low(self) -> float:
        return float(self._numbers[0][0])

    @property
    def high(self) -> float:
        return float(self._numbers[0][-1])

    def rounded(self, values: torch.Tensor) -> torch.Tensor:
        numbers = self._numbers[0].to(values.device, values.dtype)
        return numbers[self._places(values)]

    def beside(self, values: torch.Tensor) -> torch.Tensor:
        """The numbers next to the nearest, on the other side of those given; at the ends, where
        there are none, on the same side."""
        numbers = self._numbers[0].to(values.device, values.dtype)
        places = self._places(values)
        side = torch.where(values > numbers[places], 1, -1)
        outside = (places + side < 0) | (places + side >= len(numbers))
        return numbers[places + torch.where(outside, -side, side)]

    def _places(self, values: torch.Tensor) -> torch.Tensor:
        """Where the nearest are, in ascending order."""
        exact = values if values.dtype == torch.float64 else values.float()
        steps = self._steps[exact.dtype].to(exact.device)
        return torch.bucketize(exact, steps, out_int32=True)

    def nearest(self, values: torch.Tensor) -> torch.Tensor:
        exact = values if values.dtype == torch.float64 else values.float()
        _, codes, minus_zero = self._numbers
        place = self._places(exact)
        found = codes.to(exact.device)[place]
        if minus_zero is None:
            return found
        negative = (found == 0) & exact.signbit()  # zero is the first code of every float
        return torch.where(negative, minus_zero.to(exact.device), found)

    def saturated(self, values: torch.Tensor) -> torch.Tensor:
        return (values < self.low) | (values > self.high)

    def borders(self, numbers: torch.Tensor) -> torch.Tensor:
        """Where rounding changes from one number to the next, of numbers in ascending order."""
        return (numbers[1:] + numbers[:-1]) / 2

    @cached_property
    def _numbers(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The finite numbers in ascending order, their codes, and the code of minus zero."""
        codes = torch.arange(len(self.table), dtype=torch.uint8)
        negative = (self.table == 0) & self.table.signbit()
        kept = self.table.isfinite() & ~negative
        numbers, order = self.table[kept].sort()
        return numbers, codes[kept][order], codes[negative][0] if bool(negative.any()) else None

    @cached_property
    def _steps(self) -> dict[torch.dtype, torch.Tensor]:
        """The borders in each dtype; what lies strictly above one belongs to the number above.

        A border that the dtype does not have is rounded down, and where a tie goes up it is moved
        down by one number of the dtype: so comparing in the dtype is as good as comparing exactly.
        """
        numbers, codes, _ = self._numbers
        borders = self.borders(numbers)
        if self.ties == "even":
            up = codes[1:] % 2 == 0
        else:
            up = (numbers[1:] <= 0) & (self.ties == "zero")
        steps = {torch.float64: torch.where(up, _below(borders), borders)}
        single = borders.float()
        single = torch.where(single.double() > borders, _below(single), single)
        steps[torch.float32] = torch.where(
            up & (single.double() == borders), _below(single), single
        )
        return steps


def _below(values: torch.Tensor) -> torch.Tensor:
    """The next smaller number of the dtype."""
    return torch.nextafter(values, torch.full_like(values, -torch.inf))


def refuse_non_finite(values: torch.Tensor, name: str) -> None:
    """Raise where there is NaN or infinity: no scale is right for them."""
    if is_finite(values):
        return
    wrong = ~torch.isfinite(values)
    kinds = [
        kind
        for kind, found in (("NaN", values.isnan()), ("infinity", values.isinf()))
        if bool(found.any())
    ]
    first = tuple(int(place[0]) for place in wrong.nonzero(as_tuple=True))
    raise InputError(
        f"{name} has no code for {' and '.join(kinds)}: {int(wrong.sum())} of {values.numel()} "
        f"numbers are not finite, the first at {list(first)}",
        do="look for the op that makes them, or for damage in the checkpoint",
    )
