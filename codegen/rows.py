"""Functions of rows: a vector in, a vector out, and nothing between rows.

    x = input [+ other]  or  act(input) * other
    y = [softmax] [norm(x) * weight + bias]  then  [H y by blocks]
    result = y, or its codes

with the sum given back where there is one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F

from ..ir.errors import InputError
from .description import (
    FLOATS,
    Activation,
    LogQuantize,
    Quantize,
    Region,
    Tensors,
    Value,
    activated,
)

WIDEST = 65536


@dataclass(frozen=True)
class Norm:
    """RMSNorm or LayerNorm over the row.

    Args:
        kind: ``rms`` or ``layer``.
        weight, bias: Whether there are such operands.
        eps: Added to the mean square, or the variance.
    """

    kind: Literal["rms", "layer"] = "rms"
    weight: bool = True
    bias: bool = False
    eps: float = 1e-6


@dataclass(frozen=True)
class Rows(Region):
    """A region over rows.

    Args:
        width: Of a row.
        dtype: Of the operands in floating point, and of the result where it is not quantized.
        residual: Whether a second row is added first; the sum is a result, ``sum``.
        gate: Of SwiGLU and its kin, ``act(input) * other``.
        norm: Over the row.
        softmax: Over the row.
        hadamard: The size, a power of two, of the blocks that are multiplied by an orthonormal
            Hadamard matrix (F10, A36, A54).
        quantize: What is done with the result.
    """

    width: int
    dtype: torch.dtype = torch.bfloat16
    residual: bool = False
    gate: Activation | None = None
    norm: Norm | None = None
    softmax: bool = False
    hadamard: int | None = None
    quantize: Quantize | LogQuantize | None = None

    def __post_init__(self) -> None:
        size = self.hadamard
        if self.dtype not in FLOATS:
            raise InputError(f"rows are of float32, bfloat16 or float16, not {self.dtype}")
        if self.residual and self.gate:
            raise InputError("a region either adds a second row or is gated by it")
        if self.softmax and (self.norm or size):
            raise InputError("a softmax is fused with neither a norm nor a rotation")
        if isinstance(self.quantize, LogQuantize) and not self.softmax:
            raise InputError("only what a softmax gives is quantized in its logarithm")
        if size and (size & (size - 1) or size < 2 or self.width % size):
            raise InputError(f"blocks of {size} for a Hadamard matrix in rows of {self.width}")
        if isinstance(self.quantize, Quantize) and self.quantize.planes and self.width % 32:
            raise InputError(f"words of 32 bits do not divide rows of {self.width}")
        if self.whole and self.width > WIDEST:
            raise InputError(f"a row of {self.width} does not fit into a program: {WIDEST} do")

    @property
    def whole(self) -> bool:
        """Whether a result depends on the whole of its row."""
        per_token = self.quantize is not None and self.quantize.per == "token"
        return bool(self.norm or self.softmax or per_token)

    def operands(self, rows: int) -> dict[str, Value]:
        row, vector = Value((rows, self.width), self.dtype), Value((self.width,), self.dtype)
        found = {"input": row}
        if self.residual or self.gate:
            found["other"] = row
        if self.norm and self.norm.weight:
            found["weight"] = vector
        if self.norm and self.norm.bias:
            found["bias"] = vector
        return found | (self.quantize.takes if self.quantize else {})

    def results(self, rows: int) -> dict[str, Value]:
        row = Value((rows, self.width), self.dtype)
        found = {"sum": row} if self.residual else {}
        return found | (self.quantize.gives(row.shape) if self.quantize else {"output": row})

    def reference(self, operands: Tensors) -> dict[str, torch.Tensor]:
        """A norm is of the sum in full precision, not as it is rounded to be given back."""
        x = operands["input"].double()
        found: dict[str, torch.Tensor] = {}
        if self.residual:
            found["sum"] = x = x + operands["other"].double()
        if self.gate:
            x = activated(x, self.gate) * operands["other"].double()
        if self.norm:
            x = _normed(x, self.norm, operands)
        if self.softmax:
            x = torch.softmax(x, -1)
        if self.hadamard:
            x = rotated(x, self.hadamard)
        if self.quantize is None:
            return found | {"output": x}
        return found | self.quantize.reference(x, operands)

    def example(self, rows: int, seed: int) -> dict[str, torch.Tensor]:
        found = super().example(rows, seed)
        if "scale" in found:
            y = replace(self, quantize=None).reference(found)["output"]
            reach = 1.0 if isinstance(self.quantize, LogQuantize) else 120.0
            found["scale"] = (y.abs().amax() / reach).float()
        if "zero" in found:
            found["zero"] = torch.tensor(117, dtype=torch.uint8)
        return found


def _normed(x: torch.Tensor, norm: Norm, operands: Tensors) -> torch.Tensor:
    shape = x.shape[-1:]
    weight = operands["weight"].double() if norm.weight else None
    bias = operands["bias"].double() if norm.bias else None
    if norm.kind == "layer":
        return F.layer_norm(x, shape, weight, bias, norm.eps)
    x = F.rms_norm(x, shape, weight, norm.eps)
    return x if bias is None else x + bias


def rotated(x: torch.Tensor, size: int) -> torch.Tensor:
    """Each block of a row times the orthonormal Hadamard matrix of Sylvester."""
    matrix = torch.ones(1, 1, dtype=x.dtype, device=x.device)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return (x.unflatten(-1, (-1, size)) @ matrix / size**0.5).flatten(-2)
