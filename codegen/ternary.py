"""Products with ternary weights in the domain of a rotation (A36, F10.3).

    w' = H w by blocks of inputs      q in {-1, 0, 1}      w ~ H^T (s q)
    y_mn = act(sum_b s_nb sum_(k in b) q_nk (H x_m)_k + bias_n)

The weight is never turned back: the input is turned, in the kernel that multiplies, and the result
is that of the weight in its own domain. Codes are ``q + 1`` in two bits, four in a byte.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..ir.errors import InputError
from .description import Activation, StoredProduct, Tensors, Value
from .rows import rotated


@dataclass(frozen=True)
class Ternary(StoredProduct):
    """A linear layer whose weight is ternary once blocks of its inputs are turned.

    Args:
        inner: K, a multiple of the block.
        outer: N, a multiple of 16.
        block: Of inputs that a Hadamard matrix of Sylvester turns and that share a scale: 64, 128
            or 256.
        bias: Whether there is one.
        activation: Of the result.
        dtype: Of the input, the bias and the result.
    """

    inner: int
    outer: int
    block: int = 256
    bias: bool = False
    activation: Activation | None = None
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block not in (64, 128, 256):
            raise InputError(f"no kernel turns blocks of {self.block}")
        if self.inner % self.block or self.outer % 16:
            raise InputError(f"sizes of {self.inner}, {self.outer} for blocks of {self.block}")

    def stored(self) -> dict[str, Value]:
        return {
            "codes": Value((self.outer, self.inner // 4), torch.uint8, "whole"),
            "steps": Value((self.inner // self.block, self.outer), torch.float32),
        }

    def encode(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """The codes and steps of a weight ``[N, K]``: of each block the step of least squared error
        among those that keep its m greatest, which is the best there is."""
        blocks = rotated(weight.double(), self.block).unflatten(1, (-1, self.block))
        sizes, order = blocks.abs().sort(-1, descending=True)
        counts = torch.arange(1, self.block + 1, device=weight.device)
        # With m kept, s = mean of their sizes takes m s^2 off the squared error.
        best = (sizes.cumsum(-1).square() / counts).argmax(-1, keepdim=True)
        steps = sizes.cumsum(-1).gather(-1, best) / (best + 1)
        kept = torch.zeros_like(blocks).scatter(-1, order, (counts - 1 <= best).double())
        codes = (blocks.sign() * kept + 1).to(torch.uint8).flatten(1)
        return {"codes": packed(codes), "steps": steps[..., 0].T.float().contiguous()}

    def weight(self, operands: Tensors) -> torch.Tensor:
        """In its own domain."""
        shifts = torch.arange(4, device=operands["codes"].device) * 2
        codes = (operands["codes"][..., None] >> shifts & 3).flatten(1).double() - 1
        blocks = codes.unflatten(1, (-1, self.block)) * operands["steps"].double().T[..., None]
        return rotated(blocks.flatten(1), self.block)

    def example(self, rows: int, seed: int) -> dict[str, torch.Tensor]:
        found = super().example(rows, seed)
        generator = torch.Generator().manual_seed(seed)
        codes = torch.randint(0, 3, (self.outer, self.inner), generator=generator)
        found["codes"] = packed(codes.to(torch.uint8))
        found["steps"] = (found["steps"].abs() + 0.5) / self.inner**0.5
        return found


def packed(codes: torch.Tensor) -> torch.Tensor:
    """Four codes in a byte, the first in its low bits."""
    fours = codes.unflatten(1, (-1, 4))
    shifts = torch.arange(4, device=codes.device, dtype=torch.uint8) * 2
    return (fours << shifts).sum(-1, dtype=torch.uint8).contiguous()
