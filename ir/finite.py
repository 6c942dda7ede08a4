"""Numbers that are not finite."""

from __future__ import annotations

import torch


def is_finite(numbers: torch.Tensor) -> bool:
    """Whether all are finite. The ends tell, without a copy of what may be a great tensor."""
    if not numbers.is_floating_point() or not numbers.numel():
        return True
    return all(bool(end.isfinite()) for end in numbers.aminmax())


def how_many_are_not(numbers: torch.Tensor) -> str:
    """In words, of numbers that are not all finite."""
    kind = "NaN" if bool(numbers.isnan().any()) else "infinity"
    bad = int((~numbers.isfinite()).sum())
    return f"{bad} of {numbers.numel()} numbers are not finite ({kind})"
