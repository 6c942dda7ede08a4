"""Tensors that the user's code makes of numbers: ``x.new_tensor(0.1)``, ``torch.tensor([0.5, 3])``.

The exporter keeps such numbers in the dtype that the model has, so that the graph in float64 would
compute with 0.10000000149. What the code says is the shortest decimal that is the same number in
float32; where there is none of ``DIGITS`` digits the number was computed, and stays.
"""

from __future__ import annotations

import re

import torch

from ..ir import Lazy
from ..ir.types import TensorType

DIGITS = 6  # of those that a float32 tells apart
_MOST = 1 << 10  # nobody writes more numbers into code
# The exporter's name for a tensor that no module holds, under the module whose code makes it.
_NAME = re.compile(r"(?:.+\.)?lifted_tensor_\d+")


def literal(name: str, value: torch.Tensor) -> torch.Tensor | Lazy:
    """A constant by the name that the exporter gave it, with the numbers that the code says."""
    written = _NAME.fullmatch(name) and value.dtype == torch.float32 and value.numel() <= _MOST
    if not written or value.device.type == "meta":
        return value
    decimals = [float(f"{number:.{DIGITS}g}") for number in value.flatten().tolist()]
    exact = torch.tensor(decimals, dtype=torch.float64).reshape(value.shape)
    exact = torch.where(exact.to(value.dtype) == value, exact, value.double())
    if torch.equal(exact, value.double()):
        return value
    return Lazy(TensorType(value.dtype, tuple(value.shape)), lambda: value, lambda: exact)
