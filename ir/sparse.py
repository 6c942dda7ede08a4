"""Tensors without the number that most of their places hold, such as zero or its code.

Of N places, n hold other numbers. These are kept in order, and one bit for each place:

    index = there ? rows - 1 + cumsum(there) : row,    tensor = [one of each row, others][index]

in ``(rows + n) size + N / 8`` bytes in place of ``N size``. A row has one most frequent number:
the whole tensor, or its last axis, where blocks of codes have zero points of their own. Bytes may
hold two codes of four bits, which are numbers then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # to compare by


def sparse_nbytes(count: int, others: int, bits: int, rows: int = 1) -> int:
    """What a tensor takes.

    Args:
        count: N.
        others: n.
        bits: Of a number.
        rows: That have one most frequent number each.
    """
    return -(-(rows + others) * bits // 8) + -(-count // 8)


@dataclass(frozen=True)
class Sparse:
    """A tensor without what most of its places hold.

    Attributes:
        shape, dtype: Of the tensor.
        numbers: That of each row, and the others; of halves, two in a byte, the first the lower.
        places: A bit for each, from the lowest on, eight in a byte.
        rows: How many have a number of their own.
        halves: Whether bytes hold two numbers.
    """

    shape: torch.Size
    dtype: torch.dtype
    numbers: torch.Tensor
    places: torch.Tensor
    rows: int = 1
    halves: bool = False

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Sparse | None:
        """A tensor as this, in the form that takes least; ``None`` where that is no less."""
        size = tensor.element_size()
        if size not in _BITS or not tensor.numel():
            return None
        shape, flat = tensor.shape, tensor.detach().contiguous().view(-1).view(_BITS[size])
        best, least = None, tensor.nbytes
        for halves in (False, True)[: 1 + (size == 1)]:
            codes = _halves(flat) if halves else flat
            for rows in _rows(shape, size):
                cut = codes.view(rows, -1)
                most = _most(cut)
                there = cut != most
                bits = 4 if halves else 8 * size
                taken = sparse_nbytes(codes.numel(), int(there.sum()), bits, rows)
                if taken < least:
                    best, least = (halves, most, cut, there), taken
        if best is None:
            return None
        halves, most, cut, there = best
        numbers = torch.cat([most.view(-1), cut[there]])
        numbers = _bytes(numbers) if halves else numbers.view(tensor.dtype)
        return cls(shape, tensor.dtype, numbers, _packed(there.view(-1)), len(most), halves)

    @property
    def nbytes(self) -> int:
        return self.numbers.nbytes + self.places.nbytes

    def dense(self) -> torch.Tensor:
        """The tensor, bit for bit."""
        raw = self.numbers.view(_BITS[self.numbers.element_size()])
        count = math.prod(self.shape) * (1 + self.halves)
        numbers = _halves(raw) if self.halves else raw
        eights = self.places[:, None] >> torch.arange(8, dtype=torch.uint8)
        there = (eights & 1).view(-1)[:count].view(self.rows, -1).bool()
        found = numbers[: self.rows, None].repeat(1, there.shape[1])
        found[there] = numbers[self.rows :][: int(there.sum())]
        flat = found.view(-1)
        return (_bytes(flat) if self.halves else flat).view(self.dtype).view(self.shape)


def _rows(shape: torch.Size, size: int) -> Iterator[int]:
    yield 1
    rows = math.prod(shape[:-1])
    if size == 1 and rows > 1:  # only codes have zeros that differ
        yield rows


def _most(cut: torch.Tensor) -> torch.Tensor:
    """What most places of each row hold, ``[rows, 1]``; of numbers that are no codes, zero."""
    if cut.dtype != torch.uint8:
        return cut.new_zeros(len(cut), 1)
    if len(cut) == 1:
        return torch.bincount(cut[0]).argmax().to(cut.dtype).view(1, 1)
    return cut.mode(1, keepdim=True).values


def _halves(codes: torch.Tensor) -> torch.Tensor:
    """The two halves of each byte, the lower first, ``[2 N]``."""
    return torch.stack([codes & 15, codes >> 4], -1).view(-1)


def _bytes(halves: torch.Tensor) -> torch.Tensor:
    """The inverse; what is left of the last byte is zero."""
    even = torch.cat([halves, halves.new_zeros(halves.numel() % 2)])
    return even[0::2] | even[1::2] << 4


def _packed(there: torch.Tensor) -> torch.Tensor:
    """A bit for each, from the lowest on."""
    bits = torch.cat([there.to(torch.uint8), there.new_zeros(-len(there) % 8, dtype=torch.uint8)])
    powers = 1 << torch.arange(8, dtype=torch.uint8)
    return (bits.view(-1, 8) * powers).sum(1, dtype=torch.uint8)
