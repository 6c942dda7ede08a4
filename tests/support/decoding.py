"""Calls of a decoder with caches: a prompt, a token, pieces of texts."""

from __future__ import annotations

import pytest
import torch

from regauge.ir import Graph

CALLS = [
    pytest.param(2, 0, 5, id="a prompt"),
    pytest.param(2, 6, 1, id="a token"),
    pytest.param(1, 6, 4, id="a piece"),
    pytest.param(3, 6, 4, id="pieces of several texts"),
    pytest.param(1, 0, 1, id="a first token"),
]  # batch, tokens in the caches, new tokens


def inputs_of(graph: Graph, batch: int, past: int, new: int) -> list[torch.Tensor]:
    """Random inputs for a graph whose symbols are n, p and t."""
    generator = torch.Generator().manual_seed(1)
    sizes = {"n": batch, "p": past, "t": new}
    shapes = [[sizes.get(str(size), size) for size in node.shape] for node in graph.inputs]
    return [torch.randn(shape, generator=generator) for shape in shapes]  # type: ignore[arg-type]
