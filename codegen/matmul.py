"""Products of codes: a linear layer whose input and weight are quantized, as one kernel.

    y = act((sum_k (x_mk - z) w_nk) s_m t_n + bias_n)

with the scale s of the tensor or of each token, t of each output channel, and the zero point z of
the tensor. It comes out of the sum as ``z sum_k w_nk``, whose sums are known beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ..ir.errors import InputError
from .description import (
    E4M3,
    FLOATS,
    Activation,
    Product,
    Quantize,
    Tensors,
    Value,
    activated,
)

CODES = (torch.int8, torch.uint8, E4M3)


@dataclass(frozen=True)
class Matmul(Product):
    """A linear layer of codes.

    Args:
        inner: K, the inputs of a row: a multiple of 16.
        outer: N, the outputs: a multiple of 16.
        codes: Of the input: ``int8``, ``uint8`` or E4M3; weights are ``int8`` or E4M3.
        per: What shares a scale of the input.
        zero: Whether there is a zero point of the input.
        bias: Whether there is one.
        activation: Of the result.
        quantize: Of the result, to codes with a scale of the tensor.
        dtype: Of the result where it is not quantized, and of the bias.
    """

    inner: int
    outer: int
    codes: torch.dtype = torch.int8
    per: Literal["tensor", "token"] = "token"
    zero: bool = False
    bias: bool = False
    activation: Activation | None = None
    quantize: Quantize | None = None
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        if self.codes not in CODES or self.dtype not in FLOATS:
            raise InputError(f"no product of {self.codes} to {self.dtype}")
        if self.inner % 16 or self.outer % 16:
            raise InputError(f"sizes are multiples of 16, not {self.inner} and {self.outer}")
        if self.zero and self.codes == E4M3:
            raise InputError("numbers in E4M3 have no zero point")
        if self.quantize and self.quantize.per == "token":
            raise InputError("a tile of a product does not know the range of its rows")

    def operands(self, rows: int) -> dict[str, Value]:
        steps = (rows, 1) if self.per == "token" else ()
        found = {
            "input": Value((rows, self.inner), self.codes),
            "weight": Value(
                (self.outer, self.inner), E4M3 if self.codes == E4M3 else torch.int8, "whole"
            ),
            "steps": Value(steps, torch.float32),
            "weight_steps": Value((self.outer,), torch.float32),
        }
        if self.zero:
            found["input_zero"] = Value((), self.codes)
        if self.summed:
            found["sums"] = Value((self.outer,), torch.int32)
        if self.bias:
            found["bias"] = Value((self.outer,), self.dtype)
        return found | (self.quantize.takes if self.quantize else {})

    @property
    def summed(self) -> bool:
        """Whether the sums of the weight's rows are an operand: ``uint8`` is computed as ``int8``,
        128 less."""
        return self.zero or self.codes == torch.uint8

    def results(self, rows: int) -> dict[str, Value]:
        shape = (rows, self.outer)
        return self.quantize.gives(shape) if self.quantize else {"output": Value(shape, self.dtype)}

    def reference(self, operands: Tensors) -> dict[str, torch.Tensor]:
        x = operands["input"].double()
        if self.zero:
            x = x - operands["input_zero"].double()
        y = x @ operands["weight"].double().T
        y = y * operands["steps"].double() * operands["weight_steps"].double()
        if self.bias:
            y = y + operands["bias"].double()
        y = activated(y, self.activation)
        return self.quantize.reference(y, operands) if self.quantize else {"output": y}

    def example(self, rows: int, seed: int) -> dict[str, torch.Tensor]:
        found = super().example(rows, seed)
        size = (1.0 if self.codes == E4M3 else 74.0 * 74.0) * self.inner**0.5
        found["steps"] = (found["steps"].abs() + 0.5) / size
        found["weight_steps"] = found["weight_steps"].abs() + 0.5
        if self.zero:
            found["input_zero"] = torch.tensor(7, dtype=self.codes)
        if self.summed:
            found["sums"] = weight_sums(found["weight"])
        if "scale" in found:
            found["scale"] = torch.tensor(1 / 40)
        if "zero" in found:
            found["zero"] = torch.tensor(117, dtype=torch.uint8)
        return found


def weight_sums(weight: torch.Tensor) -> torch.Tensor:
    """Of each row of an integer weight, for the zero point of what it is multiplied by."""
    return weight.sum(1, dtype=torch.int32)
