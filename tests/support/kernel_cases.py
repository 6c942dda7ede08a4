"""Regions at the sizes that kernels are made for, to be compiled for devices that are not there."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from regauge.codegen import LogQuantize, Matmul, Norm, Quantize, Region, Rows
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

ROWS: dict[str, Case] = {
    "rms and residual to int8": Case(
        Rows(4096, residual=True, norm=Norm(), quantize=Quantize()), words=WIDE
    ),
    "rms of 5120 to int8": Case(Rows(5120, norm=Norm(), quantize=Quantize())),
    "layer norm to uint8": Case(
        Rows(1024, norm=Norm("layer", bias=True), quantize=Quantize(torch.uint8, "tensor"))
    ),
    "rms to E4M3": Case(
        Rows(8192, residual=True, norm=Norm(), quantize=Quantize(E4M3)), capabilities=(90,)
    ),
    "swiglu": Case(Rows(14336, gate="silu"), words=WIDE),
    "swiglu to int8": Case(Rows(14336, gate="silu", quantize=Quantize())),
    "rotation of heads to int8": Case(Rows(4096, hadamard=128, quantize=Quantize())),
    "rotation of rows to int8": Case(Rows(4096, hadamard=4096, quantize=Quantize())),
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
