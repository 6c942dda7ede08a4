"""A layer for solvers: a weight and the Hessian of inputs that depend on each other."""

from __future__ import annotations

import torch

from regauge.passes.quantization.solvers import Hessian


def layer(rows: int = 12, columns: int = 40, seed: int = 0) -> tuple[torch.Tensor, Hessian]:
    """A weight ``[rows, columns]`` and the Hessian of 500 inputs, in float64."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    data = torch.randn(500, columns, generator=generator, dtype=torch.float64) @ mix
    return weight, Hessian(data.T @ data)


def damage(weight: torch.Tensor, found: torch.Tensor, hessian: Hessian) -> float:
    """The objective."""
    return float(hessian.cost(found - weight).sum())
