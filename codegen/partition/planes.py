"""Regions of products by bits: what rounds tokens to few bits, and the linear layers that read it.

linear(fake_quantize(x), decode(codes))      integers of 2 to 8 bits on both sides (A53)
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ...ir import InputError, Node
from ...ir.formats import named
from ..bitplanes import Bitplanes
from ..description import FLOATS
from .build import Build, integer_bits
from .products import end_of, weight_codes
from .rows import front_of, of_tokens, place

# Tensor cores multiply int8 for many rows at once in the time of one; bits are counted for each.
MOST_ROWS = 1


def place_planes(build: Build) -> None:
    """Kernels for all that quantizes few rows, where products by bits are all that reads it; what
    else there is has its kernels from ``rows`` and ``products``."""
    for node in list(build.graph.nodes):
        if node.op == "fake_quantize" and _for_products(node):
            try:
                _place(build, node)
            except InputError as error:
                build.reasons[node.name] = f"not multiplied by bits: {error.what}"


def _for_products(node: Node) -> bool:
    """Whether a few rows become integers that linear layers alone read, of weights in integers."""
    sizes = [size for size in node.shape[:-1] if isinstance(size, int)]
    few = len(sizes) == len(node.shape) - 1 and math.prod(sizes) <= MOST_ROWS
    return (
        few
        and bool(node.users)
        and bool(integer_bits(named(node.attrs["format"]), "token"))
        and all(_in_integers(reader, node) for reader in node.users)
    )


def _in_integers(reader: Node, x: Node) -> bool:
    if reader.op != "linear" or reader.args[0] is not x or reader.dtype not in FLOATS:
        return False
    weight = reader.args[1]
    known = weight.op == "decode" and all(part.op == "param" for part in weight.inputs)
    return known and bool(integer_bits(named(weight.attrs["format"]), "channel"))


def _place(build: Build, node: Node) -> None:
    quantize = replace(of_tokens(build, node), planes=True)
    regions: dict[Node, tuple[Bitplanes, torch.Tensor, torch.Tensor]] = {}
    for reader in node.users:  # each is known to have a kernel before any is placed
        codes, steps = weight_codes(build, reader.args[1])
        outer, inner = codes.shape
        bits = integer_bits(named(reader.args[1].attrs["format"]), "channel")
        bias, (_, kind) = reader.operand(2) is not None, end_of(reader)
        sizes = inner, outer, quantize.bits, bits, inner
        region = Bitplanes(*sizes, bias=bias, activation=kind, dtype=reader.dtype)
        regions[reader] = region, region.pack_weight(codes), steps[None]
    found = place(build, node, front_of(build, node.args[0], node), quantize)
    for reader, (region, words, steps) in regions.items():
        end, _ = end_of(reader)
        operands = {
            "input": found["codes"],
            "weight": build.constant(f"{reader.name}_planes", words),
            "steps": found["scales"],
            "weight_steps": build.constant(f"{reader.name}_weight_steps", steps),
        }
        if region.bias:
            operands["bias"] = build.cast(reader.args[2], reader.dtype, reader)
        covers = [reader] if end is reader else [reader, end]
        build.graph.replace(end, build.place(region, operands, covers, end)["output"])
