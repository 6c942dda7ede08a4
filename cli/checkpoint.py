"""A checkpoint folder as SOURCE: the model, and an example made up in the sizes of ``--shapes``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..frontend.checkpoint import load_checkpoint
from ..ir import InputError
from .shapes import Size, dynamic
from .source import Source

TEXT = {"input_ids": [Size("batch", 2), Size("length", 64)]}
EXAMPLE_SIZE = 4  # of a size that may vary and whose number is not given


def open_checkpoint(folder: Path, shapes: Mapping[str, list[Size]]) -> Source:
    """Load the model; inputs are random tokens, masks of ones, or normal numbers."""
    model = load_checkpoint(folder)
    main = getattr(model, "main_input_name", "input_ids")
    if not shapes and main != "input_ids":
        raise InputError(
            f"the model takes {main}, and its sizes are not known",
            where=str(folder),
            do=f"give them: --shapes {main}=batch:1,3,224,224",
        )
    shapes = shapes or TEXT
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(getattr(model.config, "vocab_size", 2))
    known = {s.name: s.number for sizes in shapes.values() for s in sizes if s.name and s.number}
    example = {
        name: _example(
            name,
            [size.number or known.get(size.name or "", EXAMPLE_SIZE) for size in sizes],
            vocabulary,
            generator,
        )
        for name, sizes in shapes.items()
    }
    positions = getattr(model.config, "max_position_embeddings", None)
    limits = {"length": positions} if isinstance(positions, int) else {}
    dims = dynamic(shapes, example, limits)
    return Source(model, kwargs=example, dynamic_shapes=dims, folder=folder)


def _example(name: str, shape: list[int], vocabulary: int, generator: torch.Generator) -> Any:
    if name.endswith("mask"):
        return torch.ones(shape, dtype=torch.int64)
    if name == "token_type_ids":
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("ids"):
        return torch.randint(vocabulary, shape, generator=generator)
    return torch.randn(shape, generator=generator)
