"""Residual stages: each keeps in a format what those before it left (A50, F7.2).

    W^ = sum_t Q(W - sum_{k < t} W^_k)

With phases, every stage is one bit for each real number.
"""

from __future__ import annotations

import torch

from .format import Format, Quantized
from .search import searched


def stages(
    form: Format, tensor: torch.Tensor, count: int, importance: torch.Tensor | None = None
) -> list[Quantized]:
    """The stages of a tensor, each with searched scales; their sum is the tensor, nearly.

    Args:
        form: Of every stage.
        tensor: The numbers.
        count: Of stages.
        importance: What a squared error costs; broadcasts against the tensor.
    """
    found: list[Quantized] = []
    left = tensor if tensor.dtype == torch.float64 else tensor.float()
    for _ in range(count):
        stage = form.quantize(left, searched(form, left, importance))
        found.append(stage)
        left = left - stage.dequantize()
    return found
