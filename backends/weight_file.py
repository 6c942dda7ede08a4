"""Weights in a file of safetensors; those with many zeros without them, where that takes less.

A tensor of which n of N numbers are there takes ``n size + N / 8`` bytes in place of ``N size``:
the numbers, in order, and one bit for each place. In memory it is dense again; the bytes of every
number come back as they were.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

SPARSE = "sparse"  # in the header: the shapes of those without zeros, by name
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def write(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Put tensors into a file."""
    found: dict[str, torch.Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in sorted(tensors.items()):
        whole = tensor.detach().clone(memory_format=torch.contiguous_format)
        there = _there(whole)
        if there is None:
            found[name] = whole
            continue
        shapes[name] = list(whole.shape)
        found[name] = whole.flatten()[there]
        found[_places(name)] = torch.from_numpy(np.packbits(there.numpy()))
    save_file(found, path, metadata={SPARSE: json.dumps(shapes)} if shapes else None)


def size(tensors: Iterable[torch.Tensor]) -> int:
    """The bytes that tensors take in a file, without its header."""
    total = 0
    for tensor in tensors:
        there = _there(tensor.detach().contiguous())
        total += tensor.nbytes if there is None else _taken(there, tensor.element_size())
    return total


def read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, all dense."""
    with safe_open(path, "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}
        shapes: dict[str, list[int]] = json.loads((file.metadata() or {}).get(SPARSE, "{}"))
    for name, shape in shapes.items():
        places = found.pop(_places(name)).numpy()
        there = torch.from_numpy(np.unpackbits(places, count=math.prod(shape))).bool()
        values = found[name]
        bits = values.view(_BITS[values.element_size()])  # all that some dtypes can be put by
        whole = bits.new_zeros(len(there))
        whole[there] = bits
        found[name] = whole.view(values.dtype).view(shape)
    return found


def _places(name: str) -> str:
    return f"{name}.places"


def _there(tensor: torch.Tensor) -> torch.Tensor | None:
    """Which numbers are not zero, where the others need not be written."""
    if tensor.element_size() not in _BITS or not tensor.numel():
        return None
    there = tensor.flatten().view(_BITS[tensor.element_size()]) != 0  # -0 is written
    return there if _taken(there, tensor.element_size()) < tensor.nbytes else None


def _taken(there: torch.Tensor, size: int) -> int:
    """The bytes of those numbers, of a size each, and of a bit for each place."""
    return int(there.sum()) * size + -(-there.numel() // 8)
