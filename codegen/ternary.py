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
from ..ir.formats import Packed
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


def of_packed(
    weight: Packed, dtype: torch.dtype, *, bias: bool = False, activation: Activation | None = None
) -> tuple[Ternary, dict[str, torch.Tensor]]:
    """The region of a weight as our formats pack it once it is turned, and the operands that come
    of it.

    Args:
        weight: ``[N, K]``, ternary with a scale for each block of a row.
        dtype: Of the input.
        bias, activation: As in ``Ternary``.
    """
    form = weight.format
    if form.element.name != "ternary" or form.granularity.kind != "group":
        raise InputError(f"no kernel turns what weights in {form} are multiplied by")
    outer, inner = weight.shape
    region = Ternary(inner, outer, form.granularity.size, bias, activation, dtype)
    found = weight.unpack()
    steps = found.parameters.step.reshape(outer, -1).T.float().contiguous()
    return region, {"codes": packed(found.codes.reshape(outer, inner)), "steps": steps}


def packed(codes: torch.Tensor) -> torch.Tensor:
    """Four codes in a byte, the first in its low bits."""
    fours = codes.unflatten(1, (-1, 4))
    shifts = torch.arange(4, device=codes.device, dtype=torch.uint8) * 2
    return (fours << shifts).sum(-1, dtype=torch.uint8).contiguous()
