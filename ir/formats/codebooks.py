"""Codebooks: numbers at will, in ascending order of their codes or in an order of their own.

nf4          the quantiles of a normal distribution, with zero (QLoRA)
log2         2^-q for q = 0 .. 2^bits - 2, and zero
logsqrt2     2^(-q / 2); 2^-ceil(q / 2) with one of two scales, so a shift too (A52, F3)
ternary      -1, 0, 1
binary       -1, 1: the sign
uniform      2^bits equal steps from -1 to 1, without zero (F10.5)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..errors import InputError
from .elements import Scalar, Ties

# As published with QLoRA; 2e-7 from the quantiles, which its authors took in single precision.
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


@dataclass(frozen=True)
class Codebook(Scalar):
    """Given numbers, taken in single precision; the code is the place among them.

    Args:
        title: Its name.
        numbers: At most 256, all different.
        halfway: Where a number halfway between two of them goes.
    """

    title: str
    numbers: tuple[float, ...]
    halfway: Ties = "down"

    def __post_init__(self) -> None:
        count = len(set(self.numbers))
        if not 2 <= count == len(self.numbers) <= 256:
            raise InputError(f"a codebook has 2 to 256 different numbers, not {self.numbers}")

    @property
    def name(self) -> str:
        return self.title

    @property
    def ties(self) -> Ties:
        return self.halfway

    @property
    def bits(self) -> int:
        return (len(self.numbers) - 1).bit_length()

    @property
    def levels(self) -> int:
        return len(self.numbers)

    def tabulate(self) -> torch.Tensor:
        return torch.tensor(self.numbers, dtype=torch.float32).double()


@dataclass(frozen=True)
class Logarithmic(Scalar):
    """``2^(-q / parts)`` for q = 0, 1, .., rounded in the logarithm; the last code is zero.

    Zero is what a q of that code and beyond gives, so every code is used and nothing more is
    stored. Attention probabilities are what it is for: there is no negative number.

    Args:
        width: Bits.
        parts: Numbers to an octave: 1 or 2.
    """

    width: int
    parts: int = 1

    def __post_init__(self) -> None:
        if not (2 <= self.width <= 8 and self.parts in (1, 2)):
            raise InputError(f"a logarithm has 2 to 8 bits and base 2 or √2, not {self}")

    @property
    def name(self) -> str:
        return f"{'log2' if self.parts == 1 else 'logsqrt2'}-{self.width}"

    @property
    def bits(self) -> int:
        return self.width

    def tabulate(self) -> torch.Tensor:
        q = torch.arange(2**self.width, dtype=torch.float64)
        numbers = torch.exp2(-q / self.parts)
        numbers[-1] = 0
        return numbers

    def borders(self, numbers: torch.Tensor) -> torch.Tensor:
        q = torch.arange(2**self.width - 1, dtype=torch.float64).flip(0)
        return torch.exp2(-(q + 0.5) / self.parts)


@dataclass(frozen=True)
class Binary(Scalar):
    """The sign; zero counts as positive, whose code is even. Its scale is the mean magnitude."""

    scale_free: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return "binary"

    @property
    def bits(self) -> int:
        return 1

    def tabulate(self) -> torch.Tensor:
        return torch.tensor([1.0, -1.0], dtype=torch.float64)

    def saturated(self, values: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(values, dtype=torch.bool)


def normal_float(bits: int) -> Codebook:
    """Quantiles of a normal distribution, scaled to reach 1: half of the codes for negative
    numbers, one for zero."""
    if bits == 4:
        return Codebook("nf4", NF4)
    count = 2**bits
    tail = 1 - (1 / (count - 1) + 1 / count) / 4
    below = -torch.special.ndtri(_spread(tail, count // 2))
    above = torch.special.ndtri(_spread(tail, count // 2 + 1))
    numbers = torch.cat([below, torch.zeros(1, dtype=torch.float64), above.flip(0)])
    return Codebook(f"nf{bits}", tuple((numbers / numbers.abs().max()).tolist()))


def _spread(tail: float, count: int) -> torch.Tensor:
    """Probabilities from the tail towards one half, which is left out."""
    return torch.linspace(tail, 0.5, count, dtype=torch.float64)[:-1]


def ternary() -> Codebook:
    """-1, 0, 1; five of them go into a byte."""
    return Codebook("ternary", (-1.0, 0.0, 1.0), halfway="zero")


def uniform(bits: int) -> Codebook:
    """Equal steps from -1 to 1, an even number of them."""
    count = 2**bits
    numbers = tuple((2 * i - count + 1) / (count - 1) for i in range(count))
    return Codebook(f"uniform{bits}", numbers, halfway="zero")
