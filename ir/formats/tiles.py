"""Scales of blocks in the order in which NVIDIA's tensor cores read them.

Scales ``[rows, blocks of a row]`` are cut into tiles of 128 x 4, and rows 32 apart lie together:

    byte of (r, c) = 512 tile + 16 (r mod 32) + 4 (r div 32 mod 4) + c mod 4

with tiles row by row. What is missing of the last ones is zero. Source: cuBLAS, layout of 1D block
scaling factors.
"""

from __future__ import annotations

import torch
from torch.nn.functional import pad


def tiled(scales: torch.Tensor) -> torch.Tensor:
    """Bytes ``[bytes]`` of scales ``[rows, columns]``."""
    rows, columns = scales.shape
    whole = pad(scales, (0, -columns % 4, 0, -rows % 128))
    parts = whole.unflatten(1, (-1, 4)).unflatten(0, (-1, 4, 32))  # tile, r / 32, r, tile, c
    return parts.permute(0, 3, 2, 1, 4).flatten()


def untiled(data: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The inverse."""
    parts = data.reshape(-(-rows // 128), -(-columns // 4), 32, 4, 4).permute(0, 3, 2, 1, 4)
    return parts.flatten(3).flatten(0, 2)[:rows, :columns]
