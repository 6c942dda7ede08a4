"""Weights as packed codes: MatMulNBits, and GatherBlockQuantized for the rows of a table; and for
who has not got these, DequantizeLinear in blocks.

MatMulNBits at ``accuracy_level`` 4 rounds what it reads to int8, with a scale for each block, and
multiplies integers: it is the only level with fast kernels for 2 and 8 bits, and costs about 0.005
of relative error a layer. The two ops want the same bytes in other shapes, so a table that is also
multiplied by is stored once; what is a reshape in the file is folded when it is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch

from ....ir import Node, TargetError
from ....ir.formats import Packed, named, unpack
from ....ir.graph import Arg
from ...blocks import BlockKernels, Blocks, joined
from ...profiles import target
from ..builder import MICROSOFT, Builder, Declined, rank
from .contractions import affine

_INT8 = 4  # the accuracy level


_Parts: TypeAlias = tuple[Node, Node, Node | None, Node | None]


def _blocks(b: Builder, node: Node, parts: _Parts, name: str, shape: tuple[int, ...]) -> Blocks:
    """The blocks of packed codes."""
    codes = parts[0]
    form, place = named(name), target(b.dialect.target)
    weight = ", ".join(b.graph.store.origin.get(codes.name, ())) or codes.name
    place.check_weights(form, weight, node.at)
    if len(shape) != 2 or any(part is not None and part.op != "param" for part in parts):
        raise TargetError(
            f"target {place.name!r} decodes constant matrices alone, not {weight}, {name}",
            where=node.at,
            do="leave this weight out, or compile for target='torch'",
        )
    kernels = place.weights
    assert isinstance(kernels, BlockKernels)

    def make() -> Blocks:
        values = [None if part is None else b.graph.value(part) for part in parts]
        packed = Packed(form, torch.Size(shape), torch.float32, *values)  # pyright: ignore
        return kernels.blocks(packed.unpack())

    return b.memo(("blocks", codes), make)


def _scales(b: Builder, scale: Node, blocks: Blocks) -> str:
    """The scales of blocks, ``[O, blocks]``."""
    return b.parameter(scale, "blocks", lambda _: blocks.scale)


def _stored(
    b: Builder, node: Node, parts: _Parts, name: str, shape: tuple[int, ...]
) -> tuple[Blocks, str, str, str]:
    """The blocks of packed codes, and the names of the codes, the scales and the zero points."""
    codes, scale, _, zero = parts
    blocks = _blocks(b, node, parts, name, shape)
    zeros = blocks.zero
    return (
        blocks,
        b.parameter(codes, "blocks", lambda _: blocks.codes),
        _scales(b, scale, blocks),
        "" if zeros is None else b.parameter(zero or codes, "zeros", lambda _: zeros),
    )


def linear_blocks(
    b: Builder,
    node: Node,
    codes: Node,
    scale: Node,
    whole: Node | None,
    zero: Node | None,
    input: Node,
    bias: Node | None = None,
    *,
    format: str,
    shape: tuple[int, ...],
) -> str:
    if not b.dialect.runtime:
        table = _dequantized(b, node, (codes, scale, whole, zero), format, shape)
        return affine(b, input, b.op("Transpose", table, perm=[1, 0]), bias)
    blocks, *operands = _stored(b, node, (codes, scale, whole, zero), format, shape)
    return _product(b, input, blocks, operands, bias, shape)


def _product(
    b: Builder,
    input: Node,
    blocks: Blocks,
    operands: Sequence[str],
    bias: Node | None,
    shape: tuple[int, ...],
) -> str:
    x = b.tensor(input)
    row = b.op("Reshape", x, b.ints(1, -1)) if rank(input) == 1 else x
    product = b.op(
        f"{MICROSOFT}MatMulNBits",
        row,
        *operands,
        "",
        b.tensor(bias),
        K=shape[1],
        N=shape[0],
        bits=blocks.bits,
        block_size=blocks.size,
        accuracy_level=_INT8,
    )
    return b.op("Reshape", product, b.ints(-1)) if rank(input) == 1 else product


def linears_blocks(
    b: Builder,
    node: Node,
    weights: Sequence[_Parts],
    input: Node,
    bias: Node | None = None,
    *,
    format: str,
    shapes: Sequence[tuple[int, ...]],
) -> str:
    """Layers of one input and format as one: their results side by side."""
    blocks = joined([
        _blocks(b, node, parts, format, shape)
        for parts, shape in zip(weights, shapes, strict=True)
    ])  # fmt: skip
    codes, scale, _, _ = weights[0]
    operands = [
        b.parameter(codes, "joined", lambda _: blocks.codes),
        b.parameter(scale, "joined", lambda _: blocks.scale),
    ]
    if (zeros := blocks.zero) is not None:
        operands.append(b.parameter(codes, "joined_zeros", lambda _: zeros))
    else:
        operands.append("")
    whole = (sum(shape[0] for shape in shapes), shapes[0][1])
    return _product(b, input, blocks, operands, bias, whole)


def _dequantized(b: Builder, node: Node, parts: _Parts, name: str, shape: tuple[int, ...]) -> str:
    """The weight ``[O, I]`` behind a DequantizeLinear of blocks of its rows."""
    blocks = _blocks(b, node, parts, name, shape)
    if shape[1] % blocks.size:
        raise Declined(f"whose rows of {shape[1]} are not blocks of {blocks.size}")

    def make() -> str:
        count, levels = shape[1] // blocks.size, 2**blocks.bits

        def zeros() -> torch.Tensor:
            if blocks.zero is None:
                return torch.full((shape[0], count), levels // 2, dtype=torch.uint8)
            held = 8 // blocks.bits * blocks.zero.shape[1]
            return unpack(blocks.zero, levels, (shape[0], held))[:, :count]

        codes = b.codes(parts[0], "codes", blocks.bits, lambda: unpack(blocks.codes, levels, shape))
        zero = b.codes(parts[3] or parts[0], "zero_codes", blocks.bits, zeros)
        scale = _scales(b, parts[1], blocks)
        return b.op("DequantizeLinear", codes, scale, zero, axis=1, block_size=blocks.size)

    return b.memo(("dequantized", parts[0]), make)


def embedding_blocks(
    b: Builder,
    node: Node,
    codes: Node,
    scale: Node,
    whole: Node | None,
    zero: Node | None,
    indices: Node,
    *,
    format: str,
    shape: tuple[int, ...],
) -> str:
    if not b.dialect.runtime:
        table = _dequantized(b, node, (codes, scale, whole, zero), format, shape)
        return b.op("Gather", table, b.tensor(indices))
    parts = _stored(b, node, (codes, scale, whole, zero), format, shape)
    return _rows(b, parts, b.tensor(indices), shape)


def _rows(
    b: Builder, parts: tuple[Blocks, str, str, str], indices: str, shape: tuple[int, ...]
) -> str:
    blocks, codes, scale, zero = parts
    width = blocks.codes[0].numel()  # bytes
    table = b.memo(("rows", codes), lambda: b.op("Reshape", codes, b.ints(shape[0], width)))
    found = b.op(
        f"{MICROSOFT}GatherBlockQuantized",
        table,
        indices,
        scale,
        zero,
        gather_axis=0,
        quantize_axis=1,
        block_size=blocks.size,
        bits=blocks.bits,
    )
    if width * 8 == shape[1] * blocks.bits:
        return found
    return b.op(
        "Slice", found, b.ints(0), b.ints(shape[1]), b.ints(-1)
    )  # what fills the last block


def decode(
    b: Builder,
    node: Node,
    codes: Node,
    scale: Node,
    whole: Node | None = None,
    zero: Node | None = None,
    *,
    format: Arg = "",
    shape: Arg = (),
) -> str:
    """The whole matrix, for readers that want it: all of its rows."""
    assert isinstance(format, str) and isinstance(shape, tuple)
    sizes = tuple(int(size) for size in shape)
    if not b.dialect.runtime:
        return _dequantized(b, node, (codes, scale, whole, zero), format, sizes)
    parts = _stored(b, node, (codes, scale, whole, zero), format, sizes)
    every = b.constant(torch.arange(sizes[0]), torch.int64)
    value = _rows(b, parts, every, sizes)
    return value if node.dtype == torch.float32 else b.cast(value, node.dtype)


LOWERINGS = {
    "decode": decode,
    "ort.linear_blocks": linear_blocks,
    "ort.linears_blocks": linears_blocks,
    "ort.embedding_blocks": embedding_blocks,
}
