"""Regions at the sizes that kernels are made for, to be compiled for devices that are not there."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from regauge.codegen import (
    Bitplanes,
    BlockSparse,
    Grouped,
    LogQuantize,
    Matmul,
    Norm,
    Quantize,
    Region,
    Rows,
    SemiSparse,
    Ternary,
)
from regauge.codegen.description import E4M3


@dataclass(frozen=True)
class Case:
    """A region to compile.

    Args:
        region: Which.
        rows: As an example.
        registers: The bound of a thread's.
        capabilities: Of devices.
        options: A member of the region's space; the first where none is given.
        words: Patterns of what the text of the compiled kernel must hold, by capability.
    """

    region: Region
    rows: int = 4096
    registers: int = 128
    capabilities: tuple[int, ...] = (80, 90)
    options: dict[str, int] | None = None
    words: dict[int, tuple[str, ...]] = field(default_factory=dict[int, tuple[str, ...]])


VECTORS = (r"ld\.global\S*\.v4\.b32", r"st\.global\S*\.v4\.b32")  # 16 bytes a thread at a time
WIDE: dict[int, tuple[str, ...]] = {80: VECTORS, 90: VECTORS}

ADDED = {"BLOCK": 4096, "TILE": 1, "PROGRAMS": 0, "PRODUCTS": 0, "num_warps": 8, "num_stages": 1}

ROWS: dict[str, Case] = {
    "rms and residual to int8": Case(
        Rows(4096, residual=True, norm=Norm(), quantize=Quantize()), words=WIDE
    ),
    "rms of 5120 to int8": Case(Rows(5120, norm=Norm(), quantize=Quantize())),
    "rms to words of 6 bits": Case(
        Rows(4096, norm=Norm(), quantize=Quantize(bits=6, planes=True)), rows=1
    ),
    "layer norm to uint8": Case(
        Rows(1024, norm=Norm("layer", bias=True), quantize=Quantize(torch.uint8, "tensor"))
    ),
    "rms to E4M3": Case(
        Rows(8192, residual=True, norm=Norm(), quantize=Quantize(E4M3)), capabilities=(90,)
    ),
    "swiglu": Case(Rows(14336, gate="silu"), words=WIDE),
    "swiglu to int8": Case(Rows(14336, gate="silu", quantize=Quantize())),
    "rotation of heads to int8": Case(Rows(4096, hadamard=128, quantize=Quantize()), registers=168),
    "rotation of rows to int8": Case(Rows(4096, hadamard=4096, quantize=Quantize()), registers=168),
    "rotation of heads by additions": Case(
        Rows(4096, hadamard=128, quantize=Quantize()), options=ADDED
    ),
    "softmax to log2": Case(Rows(2048, softmax=True, quantize=LogQuantize())),
    "softmax": Case(Rows(2048, torch.float32, softmax=True)),
}

MMA = {80: (r"mma\.sync",), 90: (r"wgmma\.mma_async",)}
TILES = {
    "BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 128, "GROUP": 8, "DESCRIBED": 0, "SPECIALIZED": 0,
    "HALVES": 0, "PROGRAMS": 0, "num_warps": 4, "num_stages": 3,
}  # fmt: skip
FETCHED = {
    **TILES, "BLOCK_N": 256, "DESCRIBED": 1, "HALVES": 1, "PROGRAMS": 132, "num_warps": 8,
    "num_stages": 4,
}  # fmt: skip
SPECIALIZED = FETCHED | {"SPECIALIZED": 1}

GEMM: dict[str, Case] = {
    "int8": Case(Matmul(4096, 4096), registers=255, words=MMA),
    "int8 with a zero point, bias and gelu to uint8": Case(
        Matmul(
            4096,
            4096,
            zero=True,
            per="tensor",
            bias=True,
            activation="gelu",
            quantize=Quantize(torch.uint8, "tensor"),
        ),
        registers=255,
        words=MMA,
    ),
    "uint8": Case(Matmul(4096, 4096, torch.uint8, zero=True), registers=255, options=TILES),
    "int8 of 16 rows": Case(Matmul(4096, 4096), rows=16, registers=168),
    "E4M3": Case(Matmul(4096, 4096, E4M3), registers=255, capabilities=(90,), words=MMA),
    "E4M3, what is left of the inner size": Case(
        Matmul(4112, 4096, E4M3), rows=16, registers=168, capabilities=(90,)
    ),
    "int8, fetched": Case(
        Matmul(4096, 4096), registers=255, capabilities=(90,), options=FETCHED, words=MMA
    ),
    "E4M3, fetched": Case(
        Matmul(4096, 4096, E4M3), registers=255, capabilities=(90,), options=FETCHED, words=MMA
    ),
    "int8, specialized": Case(
        Matmul(4096, 4096), registers=255, capabilities=(90,), options=SPECIALIZED, words=MMA
    ),
    "E4M3, specialized": Case(
        Matmul(4096, 4096, E4M3), registers=255, capabilities=(90,), options=SPECIALIZED, words=MMA
    ),
}

# Codes are taken apart two at a time, and on the way to tensor cores none is put back.
APART = (r"lop3\.b32", r"fma\.rn\.b?f16x2", r"mma\.sync\S*m16n8k16")
IN_REGISTERS: dict[int, tuple[str, ...]] = {80: APART, 90: (*APART, r"(?s)\A(?!.*st\.shared)")}
NARROW = {"BLOCK_M": 16, "BLOCK_N": 64, "SPLIT": 1, "num_warps": 4, "num_stages": 4}
BROAD = NARROW | {"BLOCK_N": 128, "SPLIT": 4}

GROUPED: dict[str, Case] = {
    "4 bits": Case(Grouped(4096, 4096), 1, 80, options=NARROW, words=IN_REGISTERS),
    "4 bits, in parts": Case(Grouped(4096, 4096), 1, 128, options=BROAD),
    "4 bits, zero points": Case(Grouped(4096, 4096, zero=True), 16, 80, options=NARROW),
    "4 bits in groups of 32": Case(Grouped(4096, 4096, group=32), rows=16, registers=80),
    "4 bits, 64 rows": Case(Grouped(4096, 4096), rows=64, registers=168),
    "6 bits": Case(Grouped(4096, 4096, 6), 1, 96, options=NARROW, words=IN_REGISTERS),
    "3 bits": Case(Grouped(4096, 4096, 3), 1, 96, options=NARROW, words=IN_REGISTERS),
    "2 bits": Case(
        Grouped(4096, 4096, 2, dtype=torch.float16), 1, 80, options=NARROW, words=IN_REGISTERS
    ),
}

MMA_SYNC: dict[int, tuple[str, ...]] = {80: (r"mma\.sync",), 90: (r"mma\.sync",)}
COUNTED: dict[int, tuple[str, ...]] = {80: (r"popc\.b32",), 90: (r"popc\.b32",)}

BITPLANES: dict[str, Case] = {
    "6 by 6 bits": Case(Bitplanes(4096, 4096), rows=1, words=COUNTED),
    "6 by 6 bits, 16 rows": Case(Bitplanes(4096, 4096), rows=16, registers=168, words=COUNTED),
    "8 by 6 bits": Case(Bitplanes(4096, 4096, 8), rows=4, words=COUNTED),
    "6 by 6 bits, a scale of each row": Case(
        Bitplanes(4096, 4096, group=4096, bias=True, activation="silu"), rows=1, words=COUNTED
    ),
}


SPARSE: dict[str, Case] = {
    "two of four, 1 row": Case(SemiSparse(4096, 4096), 1, 80, words=MMA_SYNC),
    "two of four, 64 rows": Case(SemiSparse(4096, 4096, bias=True), rows=64, words=MMA),
    "blocks of 64": Case(BlockSparse(4096, 4096, 1024), rows=64, words=MMA),
    "blocks of 32": Case(BlockSparse(4096, 4096, 4096, 32), 16, 80, words=MMA_SYNC),
    "ternary, 1 row": Case(Ternary(4096, 4096), rows=1, registers=200, words=MMA_SYNC),
    "ternary in blocks of 128": Case(Ternary(4096, 4096, 128), rows=16, registers=168),
}
