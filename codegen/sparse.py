"""Products with sparse weights: two of four inputs, or whole blocks, are there.

    y_mn = act(sum_(k there) x_mk w_nk + bias_n)

Triton has no instructions for tensor cores that skip zeros, so a weight with two of four is spread
out on the way to them: what is saved are the bytes that are read, 9 of 16. Of blocks that are not
there neither bytes nor products are spent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..ir.errors import InputError
from .description import Activation, StoredProduct, Tensors, Value


@dataclass(frozen=True)
class SemiSparse(StoredProduct):
    """A linear layer of whose weight two of each four inputs are there, at most.

    Args:
        inner: K, a multiple of 64.
        outer: N, a multiple of 16.
        bias: Whether there is one.
        activation: Of the result.
        dtype: Of everything.
    """

    inner: int
    outer: int
    bias: bool = False
    activation: Activation | None = None
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner % 64 or self.outer % 16:
            raise InputError(f"sizes are multiples of 64 and 16, not {self.inner} and {self.outer}")

    def stored(self) -> dict[str, Value]:
        return {
            "values": Value((self.outer, self.inner // 2), self.dtype),
            "places": Value((self.outer, self.inner // 8), torch.uint8, "whole"),
        }

    def pack(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """The values that are there, and where: ``i + 4 j`` for the inputs i < j of four, of two
        fours in a byte."""
        fours = weight.unflatten(1, (-1, 4))
        if not semi_sparse(weight):
            raise InputError("more than two of four inputs are there")
        order = torch.argsort((fours == 0).to(torch.uint8), dim=-1, stable=True)[..., :2]
        order = order.sort(-1).values
        codes = (order[..., 0] + 4 * order[..., 1]).to(torch.uint8).unflatten(1, (-1, 2))
        return {
            "values": fours.gather(-1, order).flatten(1).to(self.dtype).contiguous(),
            "places": (codes[..., 0] + 16 * codes[..., 1]).contiguous(),
        }

    def weight(self, operands: Tensors) -> torch.Tensor:
        nibbles = torch.stack([operands["places"] & 15, operands["places"] >> 4], -1).flatten(1)
        places = torch.stack([nibbles & 3, nibbles >> 2], -1).long()
        values = operands["values"].double().unflatten(1, (-1, 2))
        spread = values.new_zeros(*values.shape[:2], 4)
        return spread.scatter_add(-1, places, values).flatten(1)

    def example(self, rows: int, seed: int) -> dict[str, torch.Tensor]:
        found = super().example(rows, seed)
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(self.outer, self.inner, generator=generator) / self.inner**0.5
        fours = weight.unflatten(1, (-1, 4))
        least = fours.abs().argsort(-1)[..., :2]
        return found | self.pack(fours.scatter(-1, least, 0.0).flatten(1).to(self.dtype))


@dataclass(frozen=True)
class BlockSparse(StoredProduct):
    """A linear layer of whose weight some square blocks are there.

    Args:
        inner, outer: K and N, multiples of the block.
        count: Of blocks that are there.
        block: Its size: 16, 32, 64 or 128.
        bias: Whether there is one.
        activation: Of the result.
        dtype: Of everything.
    """

    inner: int
    outer: int
    count: int
    block: int = 64
    bias: bool = False
    activation: Activation | None = None
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block not in (16, 32, 64, 128):
            raise InputError(f"no kernel for blocks of {self.block}")
        if self.inner % self.block or self.outer % self.block:
            raise InputError(f"sizes of {self.inner}, {self.outer} for blocks of {self.block}")
        if not 1 <= self.count <= self.inner * self.outer // self.block**2:
            raise InputError(f"{self.count} blocks cannot be there")

    def stored(self) -> dict[str, Value]:
        return {
            "values": Value((self.count, self.block, self.block), self.dtype),
            "columns": Value((self.count,), torch.int32, "whole"),
            "starts": Value((self.outer // self.block + 1,), torch.int32, "whole"),
        }

    def operations(self, rows: int) -> int:
        return 2 * rows * self.count * self.block**2

    def weight(self, operands: Tensors) -> torch.Tensor:
        starts = operands["starts"].long()
        rows = torch.arange(len(starts) - 1, device=starts.device)
        rows = rows.repeat_interleave(starts.diff())
        shape = (self.outer // self.block, self.inner // self.block, self.block, self.block)
        blocks = torch.zeros(shape, dtype=torch.float64, device=starts.device)
        blocks[rows, operands["columns"].long()] = operands["values"].double()
        return blocks.transpose(1, 2).reshape(self.outer, self.inner)

    def example(self, rows: int, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        found = super().example(rows, seed)
        width = self.inner // self.block
        order = torch.randperm(width * (self.outer // self.block), generator=generator)
        there = order[: self.count].sort().values
        found["columns"] = (there % width).to(torch.int32)
        counts = torch.bincount(there // width, minlength=self.outer // self.block)
        found["starts"] = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
        size = (self.count * self.block**2 / self.outer) ** 0.5
        found["values"] = (found["values"].float() / size).to(self.dtype)
        return found


def semi_sparse(weight: torch.Tensor) -> bool:
    """Whether of each four inputs of a weight ``[N, K]`` at most two are there."""
    if weight.shape[1] % 4:
        return False
    return bool(((weight.unflatten(1, (-1, 4)) != 0).sum(-1) <= 2).all())


def of_blocks(weight: torch.Tensor, block: int) -> tuple[int, dict[str, torch.Tensor]]:
    """How many blocks of a weight are there, and the operands that are made of it."""
    outer, inner = weight.shape
    cut = weight.view(outer // block, block, inner // block, block).transpose(1, 2)
    there = (cut != 0).flatten(2).any(-1)
    counts = there.sum(1).cumsum(0)
    operands = {
        "values": cut[there].contiguous(),
        "columns": there.nonzero()[:, 1].to(torch.int32),
        "starts": torch.nn.functional.pad(counts, (1, 0)).to(torch.int32),
    }
    return int(counts[-1]), operands
