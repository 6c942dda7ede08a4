"""Kernels that multiply by whole numbers in blocks that share a scale, and weights as they take
them.

    y = x W^T        W[o, i] = s[o, i div g] (u[o, i] - z[o, i div g])        u, z of b bits

A format of integers runs on such a kernel where its groups are blocks or rows of them: with the
same integers, in the next width that the kernel has. So int3 takes four bits in the file, and int5
to int7 take eight; int8 and MXINT8 lose nothing. What shares a scale over more than one block has
it stored once a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from ..ir.formats import Format, Integer, Quantized
from ..ir.formats import pack as pack_codes

ROW = 128  # the block of a row that shares one scale: wider ones save little, and some are slow


@dataclass(frozen=True)
class Blocks:
    """A weight ``[O, I]`` in blocks of ``size``, the last one filled up.

    Args:
        bits, size: Of the kernel.
        codes: ``uint8 [O, blocks, bytes of a block]``, low bits first.
        scale: ``float32 [O, blocks]``.
        zero: ``uint8 [O, bytes of a row's]``, packed as codes are; where there is none, zero is the
            code ``2^(bits - 1)``.
    """

    bits: int
    size: int
    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor | None


def joined(parts: Sequence[Blocks]) -> Blocks:
    """Weights of one format and width as one of all their rows."""
    zeros = [part.zero for part in parts if part.zero is not None]
    return Blocks(
        parts[0].bits,
        parts[0].size,
        torch.cat([part.codes for part in parts]),
        torch.cat([part.scale for part in parts]),
        torch.cat(zeros) if zeros else None,
    )


@dataclass(frozen=True)
class BlockKernels:
    """What kernels there are.

    Args:
        bits: Of a code.
        sizes: Of a block.
        examples: Names of formats to choose from.
    """

    bits: tuple[int, ...]
    sizes: tuple[int, ...]
    examples: tuple[str, ...]

    def take(self, form: Format) -> bool:
        """Whether weights ``[O, I]`` in this format run on them, whatever their shape."""
        shared, element = form.granularity, form.element
        if not isinstance(element, Integer) or element.width > max(self.bits):
            return False
        match shared.kind:
            case "group":
                whole = any(shared.size % size == 0 for size in self.sizes)
                return whole and shared.axis in (None, 1, -1)
            case "channel":
                return shared.axis in (None, 0, -2)
            case _:
                return True

    def store(self, form: Format) -> bool:
        """Whether such weights keep their width, and do not take the codes of a wider format."""
        element = form.element
        return self.take(form) and isinstance(element, Integer) and element.width in self.bits

    def blocks(self, weight: Quantized) -> Blocks:
        """A weight ``[O, I]`` in a format that they take."""
        form, shape = weight.format, weight.shape
        element = form.element
        assert isinstance(element, Integer)
        bits = min(bits for bits in self.bits if bits >= element.width)
        size = self._size(form, shape[1])
        columns = -(-shape[1] // size)
        codes = element.integers(weight.codes).short() + (2 ** (bits - 1) if element.signed else 0)
        rows = pad(form.join(codes.to(torch.uint8), shape), (0, columns * size - shape[1]))
        parameters = weight.parameters

        def of_blocks(shared: torch.Tensor) -> torch.Tensor:
            return form.spread(shared, shape)[:, ::size].contiguous()

        zero = parameters.zero
        if zero is None and not element.signed:
            zero = torch.zeros_like(parameters.scale)
        if zero is not None:
            first = of_blocks(zero.to(torch.uint8))
            zero = pack_codes(pad(first, (0, -columns % (8 // bits))), 2**bits)
        return Blocks(
            bits,
            size,
            pack_codes(rows.unflatten(1, (columns, size)), 2**bits),
            of_blocks(parameters.step.float() / 2**element.fraction),
            zero,
        )

    def _size(self, form: Format, columns: int) -> int:
        """The size of block for rows of so many columns."""
        if form.granularity.kind == "group":
            return max(size for size in self.sizes if form.granularity.size % size == 0)
        return min(size for size in self.sizes if size >= min(columns, ROW))

    def __str__(self) -> str:
        bits, sizes = (", ".join(map(str, parts)) for parts in (self.bits, self.sizes))
        return f"int2 .. int8, -asym too, as {bits} bits; by channel, or in groups of {sizes}"


BLOCKS = BlockKernels(
    bits=(2, 4, 8),
    sizes=(16, 32, 64, 128, 256),
    examples=("int4-g32-asym", "int4-g128", "int8-g128"),
)
