"""Weights in a file of safetensors; those with many zeros without them, where that takes less.

``ir.sparse`` says what is kept of these. In memory a tensor is dense again; the bytes of every
number come back as they were.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..ir.sparse import Sparse

SPARSE = "sparse"  # in the header: what else there is to know of those without zeros, by name


def write(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Put tensors into a file."""
    found: dict[str, torch.Tensor] = {}
    known: dict[str, dict[str, Any]] = {}
    for name, tensor in sorted(tensors.items()):
        whole = tensor.detach().clone(memory_format=torch.contiguous_format)
        sparse = Sparse.of(whole)
        if sparse is None:
            found[name] = whole
            continue
        found[name], found[_places(name)] = sparse.numbers, sparse.places
        dtype = str(sparse.dtype).removeprefix("torch.")
        rest = {"dtype": dtype, "rows": sparse.rows, "halves": sparse.halves}
        known[name] = {"shape": list(sparse.shape), **rest}
    save_file(found, path, metadata={SPARSE: json.dumps(known)} if known else None)


def size(tensors: Iterable[torch.Tensor]) -> int:
    """The bytes that tensors take in a file, without its header."""
    return sum((Sparse.of(tensor) or tensor).nbytes for tensor in tensors)


def read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, all dense."""
    with safe_open(path, "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}
        known: dict[str, dict[str, Any]] = json.loads((file.metadata() or {}).get(SPARSE, "{}"))
    for name, of in known.items():
        shape, dtype = torch.Size(of["shape"]), getattr(torch, of["dtype"])
        places = found.pop(_places(name))
        sparse = Sparse(shape, dtype, found[name], places, of["rows"], of["halves"])
        found[name] = sparse.dense()
    return found


def _places(name: str) -> str:
    return f"{name}.places"
