"""Capture a model as a graph in canonical form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.export import ExportedProgram

from ..ir import Graph, TraceError
from .convert import convert


def trace(
    model: torch.nn.Module | ExportedProgram,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
) -> Graph:
    """Capture a model."""
    program = model
    if isinstance(model, torch.nn.Module):
        with torch.no_grad():
            program = torch.export.export(
                model, args, dict(kwargs or {}), dynamic_shapes=dynamic_shapes, strict=False
            )
    assert isinstance(program, ExportedProgram)
    graph = convert(program.run_decompositions({}))
    graph.verify()
    return graph
