"""Which floating-point format of so many bits: the split between exponent and mantissa (A32, F4.2).

The bias of LLM-FP4, a real number that clips, is the logarithm of our scale, which is searched for
each split. Integers are the limit of no exponent: E1 has nothing but subnormal numbers and one
octave, in equal steps.
"""

from __future__ import annotations

import torch

from .floats import Minifloat
from .format import WHOLE, Format, Parameters
from .granularity import Granularity
from .search import searched, squared_error


def best_float(
    tensor: torch.Tensor,
    bits: int,
    granularity: Granularity = WHOLE,
    importance: torch.Tensor | None = None,
) -> tuple[Format, Parameters]:
    """The format whose squared error is least, and its searched scales.

    Args:
        tensor: The numbers.
        bits: With the sign, 3 to 8. No code is kept for NaN or infinity.
        granularity: Which numbers share a scale.
        importance: What a squared error costs; broadcasts against the tensor.
    """
    tried: list[tuple[float, Format, Parameters]] = []
    for mantissa in range(bits - 1):
        form = Format(Minifloat(bits - 1 - mantissa, mantissa, specials="none"), granularity)
        found = searched(form, tensor, importance)
        tried.append((squared_error(form, tensor, found, importance), form, found))
    _, form, found = min(tried, key=lambda row: row[0])
    return form, found
