"""How far a kernel's results are from the reference, in what their numbers can hold."""

from __future__ import annotations

import math

import torch

from .bitplanes import integers
from .description import Region, Tensors, Value


def excess(
    region: Region, operands: Tensors, results: Tensors, exact: Tensors | None = None
) -> dict[str, float]:
    """For each result, how much worse it is than the nearest number that it can hold.

    Of whole numbers in steps; of others relative to the greatest magnitude in their row. Zero is
    what rounding once, from the exact value, gives; a NaN counts as infinite.

    Args:
        region: What was computed.
        operands: Of what.
        results: What a kernel made of it.
        exact: What the reference makes of it, where that is known.
    """
    exact = region.reference(operands) if exact is None else exact
    rows = operands["input"].shape[0]
    return {
        name: _excess(value, exact[name], results[name])
        for name, value in region.results(rows).items()
    }


def _excess(value: Value, exact: torch.Tensor, found: torch.Tensor) -> float:
    if value.step == "planes":
        found = integers(found).flatten(1)
    error = (found.double() - exact).abs()
    error = torch.where(found.double().isnan() & ~exact.isnan(), torch.inf, error)
    if value.step != "float":
        return max(float(error.max()) - 0.5, 0.0)
    half = _half_step(exact, value.dtype)
    size = exact.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return max(float(((error - half) / size).max()), 0.0)


def _half_step(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Half the distance of the numbers of a dtype around an exact value."""
    info = torch.finfo(dtype)  # eps = 2^-mantissa, and the least normal number is a power of two
    exponent = (torch.frexp(exact)[1] - 1).double().clamp(min=math.log2(info.tiny))
    return torch.exp2(exponent) * info.eps / 2
