"""What a fused region computes, from which its kernel and its reference in float64 both follow.

A region says which tensors it takes and gives (``Value``), and ``reference`` computes what it gives
in float64. What a result is rounded to is left out of the reference: of codes it gives the real
number that was to be rounded, so that a kernel is right where its code lies within half a step
(``codegen.check``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F

from ..ir.errors import InputError
from ..ir.own import LIMITS

Activation: TypeAlias = Literal["relu", "silu", "gelu", "gelu_tanh"]
Tensors: TypeAlias = Mapping[str, torch.Tensor]

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
HALVES = (torch.bfloat16, torch.float16)
E4M3 = torch.float8_e4m3fn
REACH = {torch.int8: 127.0, torch.uint8: 127.0, E4M3: 448.0}  # of a scale that is symmetric


@dataclass(frozen=True)
class Value:
    """A tensor that a region takes or gives.

    Args:
        shape: Its sizes.
        dtype: Of its elements.
        step: What numbers it holds: whole ones, those of a ``dtype`` in floating point, or words of
            the bits of whole ones (``bitplanes.planes``).
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    step: Literal["float", "whole", "planes"] = "float"


class Region(ABC):
    """What a kernel can be made for."""

    @abstractmethod
    def operands(self, rows: int) -> dict[str, Value]:
        """What it takes, for so many rows."""

    @abstractmethod
    def results(self, rows: int) -> dict[str, Value]:
        """What it gives."""

    @abstractmethod
    def reference(self, operands: Tensors) -> dict[str, torch.Tensor]:
        """What it gives, in float64, before it is rounded to the numbers of the result."""

    def example(self, rows: int, seed: int) -> dict[str, torch.Tensor]:
        """Random operands."""
        generator = torch.Generator().manual_seed(seed)
        return {name: random(value, generator) for name, value in self.operands(rows).items()}

    def moved(self, rows: int) -> int:
        """The bytes that have to be read and written at least."""
        values = (*self.operands(rows).values(), *self.results(rows).values())
        return sum(torch.Size(v.shape).numel() * v.dtype.itemsize for v in values)

    def operations(self, rows: int) -> int:
        """The multiplications and additions of matrices."""
        return 0


class Product(Region):
    """A linear layer: ``inner`` inputs and ``outer`` outputs of each row."""

    inner: int
    outer: int

    def operations(self, rows: int) -> int:
        return 2 * rows * self.inner * self.outer


class StoredProduct(Product):
    """One whose weight is stored in a form of its own; all else is of one dtype, of 16 bits.

    Args:
        bias: Whether there is one.
        activation: Of the result.
        dtype: Of the input, the bias and the result.
    """

    bias: bool
    activation: Activation | None
    dtype: torch.dtype

    def __post_init__(self) -> None:
        if self.dtype not in HALVES:
            raise InputError(f"the input is of bfloat16 or float16, not {self.dtype}")

    @abstractmethod
    def stored(self) -> dict[str, Value]:
        """The operands that the weight is stored in."""

    @abstractmethod
    def weight(self, operands: Tensors) -> torch.Tensor:
        """The weight that they stand for, ``[N, K]`` in float64."""

    def operands(self, rows: int) -> dict[str, Value]:
        found = {"input": Value((rows, self.inner), self.dtype)} | self.stored()
        return found | ({"bias": Value((self.outer,), self.dtype)} if self.bias else {})

    def results(self, rows: int) -> dict[str, Value]:
        return {"output": Value((rows, self.outer), self.dtype)}

    def reference(self, operands: Tensors) -> dict[str, torch.Tensor]:
        y = operands["input"].double() @ self.weight(operands).T
        y = y + operands["bias"].double() if self.bias else y
        return {"output": activated(y, self.activation)}


@dataclass(frozen=True)
class Quantize:
    """``clip(round(x / s) + z)``, with round half to even, or the nearest number of E4M3.

    Args:
        dtype: ``int8``, ``uint8`` or ``float8_e4m3fn``.
        per: ``tensor``: the scale is an operand, and so is the zero point of ``uint8``. ``token``:
            a scale for each row, from its greatest magnitude, is a result; the zero point of
            ``uint8`` is 128.
        bits: Of a code of ``int8``, where a token's take fewer than it has.
        planes: Whether such codes come as words of their bits, as ``Bitplanes`` takes them.
    """

    dtype: torch.dtype = torch.int8
    per: Literal["tensor", "token"] = "token"
    bits: int = 8
    planes: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in REACH:
            raise InputError(f"a kernel quantizes to int8, uint8 or E4M3, not {self.dtype}")
        if (self.bits < 8 or self.planes) and (self.dtype, self.per) != (torch.int8, "token"):
            raise InputError("a kernel quantizes to few bits as int8 by the token")
        if not 2 <= self.bits <= 8:
            raise InputError(f"codes are of 2 to 8 bits, not {self.bits}")

    @property
    def limits(self) -> tuple[float, float]:
        if self.bits < 8:
            return -(2.0 ** (self.bits - 1)), self.reach
        return (-448.0, 448.0) if self.dtype == E4M3 else LIMITS[self.dtype]

    @property
    def reach(self) -> float:
        """The code of a row's greatest magnitude."""
        return 2.0 ** (self.bits - 1) - 1 if self.bits < 8 else REACH[self.dtype]

    @property
    def middle(self) -> int:
        """The code of zero, where the region chooses it."""
        return 128 if self.dtype == torch.uint8 else 0

    @property
    def takes(self) -> dict[str, Value]:
        """The operands."""
        if self.per == "token":
            return {}
        found = {"scale": Value((), torch.float32)}
        return found | ({"zero": Value((), torch.uint8)} if self.dtype == torch.uint8 else {})

    def gives(self, shape: tuple[int, ...]) -> dict[str, Value]:
        """The results of quantizing a value of a shape."""
        codes = Value(shape, self.dtype, "float" if self.dtype == E4M3 else "whole")
        if self.planes:
            words = (*shape[:-1], 1, self.bits, shape[-1] // 32)
            codes = Value(words, torch.int32, "planes")
        steps = {"scales": Value((*shape[:-1], 1), torch.float32)} if self.per == "token" else {}
        return {"codes": codes} | steps

    def reference(self, x: torch.Tensor, operands: Tensors) -> dict[str, torch.Tensor]:
        """The codes before rounding, and the scales of tokens; as ``regauge::quantize``,
        ``regauge::dynamic_quantize`` and the formats of ``regauge::fake_quantize`` have them."""
        if self.per == "token":
            scale = x.abs().amax(-1, keepdim=True) / self.reach
            scale = torch.where(scale == 0, 1.0, scale)
            return {"codes": (x / scale + self.middle).clamp(*self.limits), "scales": scale}
        zero = operands["zero"].double() if "zero" in operands else 0
        return {"codes": (x / operands["scale"].double() + zero).clamp(*self.limits)}


@dataclass(frozen=True)
class LogQuantize:
    """``q = clip(round(-parts log2(p / s)), 0, 2^width - 1)`` (A52).

    It stands for ``s 2^(-q / parts)``, but the last for zero.

    Args:
        width: Bits.
        parts: 1, or 2 for base √2.
        per: ``tensor``: the scale is an operand. ``token``: it is the greatest of the row.
    """

    width: int = 4
    parts: int = 1
    per: Literal["tensor", "token"] = "token"

    @property
    def takes(self) -> dict[str, Value]:
        """The operands."""
        return {"scale": Value((), torch.float32)} if self.per == "tensor" else {}

    def gives(self, shape: tuple[int, ...]) -> dict[str, Value]:
        """The results of quantizing a value of a shape."""
        steps = {"scales": Value((*shape[:-1], 1), torch.float32)} if self.per == "token" else {}
        return {"codes": Value(shape, torch.uint8, "whole")} | steps

    def reference(self, x: torch.Tensor, operands: Tensors) -> dict[str, torch.Tensor]:
        """The codes before rounding, and the scales of rows."""
        scale = x.amax(-1, keepdim=True)
        steps = {"scales": scale} if self.per == "token" else {}
        scale = scale if self.per == "token" else operands["scale"].double()
        codes = (-self.parts * torch.log2(x / scale)).clamp(0, 2**self.width - 1)
        return {"codes": codes, **steps}


def activated(x: torch.Tensor, kind: Activation | None) -> torch.Tensor:
    """An activation, as PyTorch has it."""
    match kind:
        case None:
            return x
        case "relu":
            return F.relu(x)
        case "silu":
            return F.silu(x)
        case "gelu":
            return F.gelu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")


def random(value: Value, generator: torch.Generator) -> torch.Tensor:
    """Numbers of a normal distribution; integers of all sizes."""
    if value.dtype.is_floating_point:
        made = torch.randn(value.shape, generator=generator)
        return made.to(value.dtype)
    info = torch.iinfo(value.dtype)
    made = torch.randint(info.min, info.max + 1, value.shape, generator=generator)
    return made.to(value.dtype)
