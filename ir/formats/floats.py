"""Small floating point: a sign, E bits of exponent, M of mantissa.

    (-1)^s 2^(e - bias) (1 + m / 2^M)    e > 0
    (-1)^s 2^(1 - bias) m / 2^M          e = 0

The bias may be any real number (F4.1): it is the logarithm of a scale,
``Q_bias(x) = t Q_b(x / t)`` with ``t = 2^(b - bias)``. Sources: OCP 8-bit floating point (E4M3,
E5M2), OCP microscaling formats (E2M3, E3M2, E2M1), LLM-FP4 (A32) for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from ..errors import InputError
from .elements import Scalar

Specials: TypeAlias = Literal["none", "nan", "ieee"]
STANDARD: dict[tuple[int, int], Specials] = {(4, 3): "nan", (5, 2): "ieee"}


@dataclass(frozen=True)
class Minifloat(Scalar):
    """A signed floating-point number of at most eight bits.

    Args:
        exponent: E, at least 1.
        mantissa: M.
        bias: Of the exponent; ``2^(E - 1) - 1`` where none is given.
        specials: The codes that stand for no number. ``nan``: the greatest alone, NaN; ``ieee``:
            those of the greatest exponent, infinity and NaNs. By the standard, where none is given.
    """

    exponent: int
    mantissa: int
    bias: float | None = None
    specials: Specials | None = None

    def __post_init__(self) -> None:
        if self.exponent < 1 or self.mantissa < 0 or self.bits > 8:
            raise InputError(
                f"E{self.exponent}M{self.mantissa} is not a format of at most eight bits with a "
                "sign and an exponent"
            )
        # what goes without saying is not said, so that equal formats are equal
        if self.bias == 2 ** (self.exponent - 1) - 1:
            object.__setattr__(self, "bias", None)
        if self.specials == STANDARD.get((self.exponent, self.mantissa), "none"):
            object.__setattr__(self, "specials", None)

    @property
    def name(self) -> str:
        tail = "" if self.bias is None else f"-bias{self.bias!r}"
        tail += "" if self.specials is None else f"-{self.specials}"
        return f"fp{self.bits}-e{self.exponent}m{self.mantissa}{tail}"

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def center(self) -> float:
        """The bias."""
        return float(2 ** (self.exponent - 1) - 1) if self.bias is None else self.bias

    def tabulate(self) -> torch.Tensor:
        steps = 2**self.mantissa
        code = torch.arange(2 ** (self.bits - 1))
        e, m = code // steps, (code % steps).double() / steps
        size = torch.exp2(e.clamp(min=1).double() - self.center)
        numbers = size * torch.where(e > 0, 1 + m, m)
        kept = self.specials or STANDARD.get((self.exponent, self.mantissa), "none")
        if kept == "nan":
            numbers[-1] = torch.nan
        elif kept == "ieee":
            numbers[-steps:] = torch.nan
            numbers[-steps] = torch.inf
        return torch.cat([numbers, -numbers])


def bias_of_range(peak: torch.Tensor, exponent: int, mantissa: int) -> torch.Tensor:
    """The bias at which the greatest number of a format without specials is ``peak`` (F4.1)."""
    top = torch.log2(torch.tensor(2 - 2.0**-mantissa, dtype=torch.float64))
    return 2**exponent - torch.log2(peak.double()) + top - 1


def scale_of_bias(bias: torch.Tensor, exponent: int) -> torch.Tensor:
    """The scale that does to the format of the standard bias what another bias would."""
    return torch.exp2(2 ** (exponent - 1) - 1 - bias)


def bias_of_scale(scale: torch.Tensor, exponent: int) -> torch.Tensor:
    """The inverse."""
    return 2 ** (exponent - 1) - 1 - torch.log2(scale)
