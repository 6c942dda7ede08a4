"""Codes packed into bytes, and back.

Codes follow one another in row-major order without gaps, low bits first: code ``i`` of ``b`` bits
begins at bit ``b i``, and bit ``k`` is bit ``k mod 8`` of byte ``k div 8``. So two int4 are a byte
as ONNX has it, and codes of 3, 5, 6, 7 bits cross bytes. Where digits of another base than two fill
a byte better, a byte holds those: five of base 3, the first as the least. What is left of the last
byte is zero.
"""

from __future__ import annotations

from math import lcm

import torch

from ..errors import InputError


def digits_in_byte(levels: int) -> int | None:
    """How many digits of this base a byte holds, where that is more than bits make of it."""
    count = 1
    while levels ** (count + 1) <= 256:
        count += 1
    return count if count * (levels - 1).bit_length() > 8 else None


def packed_size(count: int, levels: int) -> int:
    """The bytes that codes take.

    Args:
        count: Of codes.
        levels: How many different codes there are.
    """
    digits = digits_in_byte(levels)
    return -(-count // digits) if digits else -(-count * (levels - 1).bit_length() // 8)


def pack(codes: torch.Tensor, levels: int) -> torch.Tensor:
    """Bytes, ``uint8``.

    Rows that fill whole bytes stay rows: the result is ``[..., bytes]``. Otherwise it has one axis.

    Args:
        codes: ``uint8``, each less than ``levels``.
        levels: At most 256.
    """
    count = codes.numel()
    if count and int(codes.max()) >= levels:
        raise InputError(f"a code of {int(codes.max())} is not one of {levels}")
    base, digits, size = _word(levels)
    flat = codes.new_zeros(-(-count // digits) * digits)
    flat[:count] = codes.flatten()
    words = flat.new_zeros(len(flat) // digits, dtype=_integers(size))
    for i, digit in enumerate(flat.view(-1, digits).unbind(1)):
        words.add_(digit, alpha=base**i)
    found = words.new_empty(len(words), size, dtype=torch.uint8)
    for i in range(size):
        found[:, i] = (words >> 8 * i) & 255
    found = found.flatten()[: packed_size(count, levels)]
    row = codes.shape[-1] if count and codes.dim() else 0
    whole = row and row * size % digits == 0
    return found.reshape(*codes.shape[:-1], row * size // digits) if whole else found


def unpack(data: torch.Tensor, levels: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The codes of a shape, from what ``pack`` made of them."""
    count = torch.Size(shape).numel()
    if data.numel() != packed_size(count, levels):
        raise InputError(
            f"{count} codes of {levels} are {packed_size(count, levels)} bytes, not {data.numel()}"
        )
    base, digits, size = _word(levels)
    flat = data.new_zeros(-(-data.numel() // size) * size)
    flat[: data.numel()] = data.flatten()
    words = flat.new_zeros(len(flat) // size, dtype=_integers(size))
    for i, part in enumerate(flat.view(-1, size).unbind(1)):
        words.add_(part, alpha=256**i)
    codes = flat.new_empty(len(words), digits)
    for i in range(digits):
        codes[:, i] = words // base**i % base
    return codes.flatten()[:count].reshape(shape)


def _word(levels: int) -> tuple[int, int, int]:
    """The base of codes, and how many of them fill how many whole bytes."""
    if digits := digits_in_byte(levels):
        return levels, digits, 1
    bits = (levels - 1).bit_length()
    return 2**bits, lcm(bits, 8) // bits, lcm(bits, 8) // 8


def _integers(size: int) -> torch.dtype:
    """The narrowest that hold words of so many bytes."""
    return torch.int16 if size == 1 else torch.int32 if size < 4 else torch.int64
