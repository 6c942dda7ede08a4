"""Products of integers of few bits by their bits (F10.1, A53).

a = sum_i c_i a_i,  c = (1, 2, 4, .., -2^(b - 1))         the bits a_i of two's complement
sum_k a_k w_k = sum_ij c_i c_j popcount(a_i and w_j)      over 32 inputs at once
y_mn = act(sum_g s_mg t_ng sum_(k in g) a_mk w_nk + b_n)  exact but for the sum over groups
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..ir.errors import InputError
from .description import Activation, Product, Tensors, Value, activated


@dataclass(frozen=True)
class Bitplanes(Product):
    """A linear layer whose input and weight are signed integers of at most 8 bits each.

    Args:
        inner: K, a multiple of the group.
        outer: N, a multiple of 16.
        bits: Of a code of the input.
        weight_bits: Of a code of the weight.
        group: Of inputs that share a scale on either side: a multiple of 32.
        bias: Whether there is one.
        activation: Of the result.
        dtype: Of the result and the bias.
    """

    inner: int
    outer: int
    bits: int = 6
    weight_bits: int = 6
    group: int = 128
    bias: bool = False
    activation: Activation | None = None
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        if not (2 <= self.bits <= 8 and 2 <= self.weight_bits <= 8):
            raise InputError(f"codes are of 2 to 8 bits, not {self.bits} and {self.weight_bits}")
        if self.group % 32 or self.inner % self.group or self.outer % 16:
            raise InputError(f"sizes of {self.inner}, {self.outer} for groups of {self.group}")

    @property
    def groups(self) -> int:
        """In a row."""
        return self.inner // self.group

    def operands(self, rows: int) -> dict[str, Value]:
        words = self.group // 32
        codes = (rows, self.groups, self.bits, words)
        weight = (self.groups, self.weight_bits, words, self.outer)
        found = {
            "input": Value(codes, torch.int32, "planes"),
            "weight": Value(weight, torch.int32, "planes"),
            "steps": Value((rows, self.groups), torch.float32),
            "weight_steps": Value((self.groups, self.outer), torch.float32),
        }
        return found | ({"bias": Value((self.outer,), self.dtype)} if self.bias else {})

    def results(self, rows: int) -> dict[str, Value]:
        return {"output": Value((rows, self.outer), self.dtype)}

    def pack(self, codes: torch.Tensor) -> torch.Tensor:
        """The words of the input, of its codes ``[M, K]``."""
        return planes(codes, self.bits, self.group)

    def pack_weight(self, codes: torch.Tensor) -> torch.Tensor:
        """The words of the weight, of its codes ``[N, K]``."""
        return planes(codes, self.weight_bits, self.group).permute(1, 2, 3, 0).contiguous()

    def reference(self, operands: Tensors) -> dict[str, torch.Tensor]:
        x = integers(operands["input"]).double() * operands["steps"].double()[..., None]
        w = integers(operands["weight"].permute(3, 0, 1, 2)).double()
        w = w * operands["weight_steps"].double().T[..., None]
        y = x.flatten(1) @ w.flatten(1).T
        y = y + operands["bias"].double() if self.bias else y
        return {"output": activated(y, self.activation)}

    def example(self, rows: int, seed: int) -> dict[str, torch.Tensor]:
        found = super().example(rows, seed)
        size = 2 ** (self.bits + self.weight_bits - 3) * self.inner**0.5
        found["steps"] = (found["steps"].abs() + 0.5) / size
        found["weight_steps"] = found["weight_steps"].abs() + 0.5
        return found


def planes(codes: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """``[R, K / group, bits, group / 32]``: bit k mod 32 of a word is that of input k."""
    parts = codes.long().view(len(codes), -1, 1, group // 32, 32)
    place = torch.arange(bits, device=codes.device)[:, None, None]
    words = ((parts >> place & 1) << torch.arange(32, device=codes.device)).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def integers(words: torch.Tensor) -> torch.Tensor:
    """The codes of such words, ``[R, K / group, group]``."""
    count = words.shape[2]
    bits = words.long()[..., None] >> torch.arange(32, device=words.device) & 1
    weights = 1 << torch.arange(count, device=words.device)
    weights[-1] = -weights[-1]
    return (bits * weights[:, None, None]).sum(2).flatten(2)
