"""Integers in two's complement, fixed-point fractions of them, and unsigned ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import InputError
from .elements import Scalar


@dataclass(frozen=True)
class Integer(Scalar):
    """``code / 2^fraction`` for codes of ``width`` bits.

    Args:
        width: 1 to 8, with the sign.
        signed: Two's complement; otherwise from zero up.
        fraction: Bits after the point (MXINT8 has 6, a mantissa of block floating point all but the
            sign).
        narrow: Leave out the least number, so that the set is symmetric.
    """

    width: int
    signed: bool = True
    fraction: int = 0
    narrow: bool = False

    def __post_init__(self) -> None:
        if not (1 + self.signed <= self.width <= 8 and 0 <= self.fraction):
            raise InputError(f"an integer has {1 + self.signed} to 8 bits, not {self.width}")

    @property
    def name(self) -> str:
        fraction = f"q{self.fraction}" if self.fraction else ""
        kind = "int" if self.signed else "uint"
        return f"{kind}{self.width}{fraction}{'-narrow' if self.narrow else ''}"

    @property
    def bits(self) -> int:
        return self.width

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the greatest code, as integers."""
        if not self.signed:
            return 0, 2**self.width - 1
        half = 2 ** (self.width - 1)
        return self.narrow - half, half - 1

    def tabulate(self) -> torch.Tensor:
        codes = torch.arange(2**self.width, dtype=torch.float64)
        if self.signed:
            half = 2 ** (self.width - 1)
            codes = torch.where(codes >= half, codes - 2 * half, codes)
        codes[codes < self.limits[0]] = torch.nan
        return codes / 2**self.fraction

    def nearest(self, values: torch.Tensor) -> torch.Tensor:
        exact = values if values.dtype == torch.float64 else values.float()
        codes = (exact * 2**self.fraction).round_().clamp_(*self.limits)
        return codes.to(torch.int16).to(torch.uint8).bitwise_and_(2**self.width - 1)

    def rounded(self, values: torch.Tensor) -> torch.Tensor:
        if self.fraction:
            return (values * 2**self.fraction).round_().clamp_(*self.limits) / 2**self.fraction
        return values.round().clamp_(*self.limits)

    def integers(self, codes: torch.Tensor) -> torch.Tensor:
        """The integers of codes as integer kernels take them: ``int8``, or ``uint8`` where there
        are no negative ones."""
        if not self.signed:
            return codes
        spare = 8 - self.width
        return (codes << spare).view(torch.int8) >> spare
