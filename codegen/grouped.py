"""Products with weights of few bits: groups of inputs share a scale, and perhaps a zero point.

    y_mn = act(sum_g s_gn sum_(k in g) x_mk (q_nk - z_gn) + bias_n)

What a kernel reads are not the bytes of ``ir.formats.packing`` but words that ``Grouped.pack``
makes of the same codes once. A tile of T inputs by 8 outputs is what the 32 lanes of a warp
multiply at once, so each lane's words lie side by side. A word holds pairs of inputs, the one's
code 16 bits above the other's, because one instruction makes two numbers of 16 bits of them:

    input 2 r + h + 2 R j of the tile    bits 16 h + b j and following of word r of R
    word r of output n                   [., n div 8, n mod 8, r mod 4, r div 4]

in words ``[K / T, N / 8, 8, 4, R / 4]``. Where 16 or 8 bits suffice, a word has no more, and its
halves are 8 or 4 apart. Codes of 3, 5 and 6 bits are two words: of their low 2 or 4 bits, and of
the high ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..ir.errors import InputError
from ..ir.formats import Integer, Packed
from .description import Activation, StoredProduct, Tensors, Value

PLANES = {
    2: (2,),
    3: (2, 1),
    4: (4,),
    5: (4, 1),
    6: (4, 2),
}  # bits of a code, by words that hold them
WORDS = {8: torch.uint8, 16: torch.int16, 32: torch.int32}


@dataclass(frozen=True)
class Layout:
    """How the codes of a tile lie in words.

    Args:
        tile: T, inputs that share a scale: 32, 64 or 128.
        plane: b, bits of a code in such a word.
        rows: R, words of an output in a tile.
    """

    tile: int
    plane: int
    rows: int

    @property
    def pairs(self) -> int:
        """In a word."""
        return self.tile // (2 * self.rows)

    @property
    def half(self) -> int:
        """Bits of half a word."""
        return self.pairs * self.plane

    def pack(self, codes: torch.Tensor) -> torch.Tensor:
        """Words, of codes ``[N, K]``."""
        N, K = codes.shape
        shifts = torch.arange(self.pairs)[:, None, None] * self.plane
        shifts = shifts + torch.arange(2) * self.half  # (j, 1, h)
        parts = codes.view(N, K // self.tile, self.pairs, self.rows, 2).long()
        words = (parts << shifts).sum((2, 4))  # (N, K / T, R)
        words = words.view(N // 8, 8, K // self.tile, self.rows // 4, 4).permute(2, 0, 1, 4, 3)
        size = 2 * self.half
        words = torch.where(words >= 1 << (size - 1), words - (1 << size), words)
        return words.to(WORDS[size]).contiguous()

    def unpack(self, words: torch.Tensor) -> torch.Tensor:
        """The codes."""
        tiles, blocks = words.shape[:2]
        flat = words.long().permute(1, 2, 0, 4, 3).reshape(8 * blocks, tiles, 1, self.rows, 1)
        shifts = torch.arange(self.pairs, device=words.device)[:, None, None] * self.plane
        shifts = shifts + torch.arange(2, device=words.device) * self.half
        return (flat >> shifts & (1 << self.plane) - 1).reshape(8 * blocks, -1)

    def value(self, outer: int, inner: int) -> Value:
        """The words of a weight."""
        shape = (inner // self.tile, outer // 8, 8, 4, self.rows // 4)
        return Value(shape, WORDS[2 * self.half], "whole")


@dataclass(frozen=True)
class Grouped(StoredProduct):
    """A linear layer whose weight is of few bits, and whose input is not.

    Args:
        inner: K, the inputs of a row: a multiple of the group.
        outer: N, the outputs: a multiple of 16.
        bits: Of a code: 2 to 6.
        group: Of inputs that share a scale: 32, 64 or a multiple of 128; of 3 and 5 bits, not 32.
        zero: Whether groups have zero points; without, codes are in two's complement.
        bias: Whether there is one.
        activation: Of the result.
        dtype: Of the input, the scales, the bias and the result.
    """

    inner: int
    outer: int
    bits: int = 4
    group: int = 128
    zero: bool = False
    bias: bool = False
    activation: Activation | None = None
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        if self.bits not in PLANES:
            raise InputError(f"a kernel takes weights of 2 to 6 bits, not {self.bits}")
        if self.group % 128 and self.group not in ((64,) if self.bits % 2 else (32, 64)):
            raise InputError(f"no kernel for groups of {self.group} with {self.bits} bits")
        if self.inner % self.group or self.outer % 16:
            raise InputError(f"sizes of {self.inner}, {self.outer} for groups of {self.group}")
        super().__post_init__()

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Of the words, the low bits of codes first."""
        tile = min(self.group, 128)
        widest = max(PLANES[self.bits])
        rows = 16 if tile * widest > 256 else 8
        return tuple(Layout(tile, plane, rows) for plane in PLANES[self.bits])

    def stored(self) -> dict[str, Value]:
        groups = (self.inner // self.group, self.outer)
        found: dict[str, Value] = {}
        for name, layout in zip(("words", "high_words"), self.layouts, strict=False):
            found[name] = layout.value(self.outer, self.inner)
        found["steps"] = Value(groups, self.dtype)
        if self.zero:
            found["zeros"] = Value(groups, self.dtype)
        return found

    def codes(self, operands: Tensors) -> torch.Tensor:
        """``[N, K]``, from zero up; without zero points, those of two's complement are counted from
        the least."""
        found, shift = None, 0
        for name, layout in zip(("words", "high_words"), self.layouts, strict=False):
            part = layout.unpack(operands[name]) << shift
            found = part if found is None else found + part
            shift += layout.plane
        assert found is not None
        return found

    def weight(self, operands: Tensors) -> torch.Tensor:
        codes = self.codes(operands).double().unflatten(1, (-1, self.group))
        zeros = operands["zeros"].double().T[..., None] if self.zero else 2 ** (self.bits - 1)
        return ((codes - zeros) * operands["steps"].double().T[..., None]).flatten(1)

    def example(self, rows: int, seed: int) -> dict[str, torch.Tensor]:
        found = super().example(rows, seed)
        size = 2 ** (self.bits - 1) * self.inner**0.5
        found["steps"] = ((found["steps"].float().abs() + 0.5) / size).to(self.dtype)
        if self.zero:
            generator = torch.Generator().manual_seed(seed)
            zeros = torch.randint(0, 2**self.bits, found["zeros"].shape, generator=generator)
            found["zeros"] = zeros.to(self.dtype)
        return found

    def pack(self, codes: torch.Tensor) -> dict[str, torch.Tensor]:
        """The words of codes ``[N, K]``, from zero up."""
        found: dict[str, torch.Tensor] = {}
        shift = 0
        for name, layout in zip(("words", "high_words"), self.layouts, strict=False):
            found[name] = layout.pack(codes >> shift & (1 << layout.plane) - 1)
            shift += layout.plane
        return found


def of_packed(
    packed: Packed, dtype: torch.dtype, *, bias: bool = False, activation: Activation | None = None
) -> tuple[Grouped, dict[str, torch.Tensor]]:
    """The region of a weight as our formats pack it, and the operands that come of it.

    Args:
        packed: ``[N, K]``, integers with a scale for each group of a row, or for each row.
        dtype: Of the input; scales are rounded to it.
        bias, activation: As in ``Grouped``.
    """
    form = packed.format
    element, shared = form.element, form.granularity
    outer, inner = packed.shape
    grouped = shared.kind == "group" and shared.axis in (None, -1, 1)
    if isinstance(element, Integer) and not (element.fraction or element.narrow):
        width, signed = element.width, element.signed
    elif element.name == "ternary":
        width, signed = 2, True
    else:
        raise InputError(f"no kernel for weights in {form}: its numbers are not plain integers")
    if not (grouped or (shared.kind == "channel" and shared.axis in (None, 0))):
        raise InputError(f"no kernel for weights in {form}: scales are not of groups of a row")
    group = shared.size if grouped else inner
    if inner % group:
        raise InputError(f"no kernel for rows of {inner} in groups of {group}")
    found = packed.unpack()
    codes = found.codes.reshape(outer, inner)
    if isinstance(element, Integer):
        codes = codes ^ 1 << width - 1 if signed else codes  # two's complement, from the least
    else:
        codes = codes + 1  # -1 is the second least of two bits
    region = Grouped(inner, outer, width, group, not signed, bias, activation, dtype)
    steps = found.parameters.step.reshape(outer, -1).T.contiguous().to(dtype)
    operands = region.pack(codes) | {"steps": steps}
    if region.zero:
        zeros = found.parameters.zero
        zeros = torch.zeros_like(steps) if zeros is None else zeros.reshape(outer, -1).T
        operands["zeros"] = zeros.to(dtype).contiguous()
    return region, operands
