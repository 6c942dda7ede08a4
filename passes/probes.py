"""Random directions in the outputs of a graph, by which changes of these are measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch

from .quantization.simulated import floats

Metric: TypeAlias = Literal["error", "likelihood"]


def seeds(outputs: Sequence[Any], metric: Metric, generator: torch.Generator) -> list[torch.Tensor]:
    """Random directions in the outputs, one for each, with which squares of products are expected
    to be what the metric says.

    ``error``: normal numbers, ``E (r'e)^2 = |e|^2``. ``likelihood``: the gradient of the log
    likelihood of labels drawn from the softmax of logits over the last axis, ``E (r'e)^2 = e'Fe``,
    twice the divergence of the distributions to second order.
    """
    found: list[torch.Tensor] = []
    for value in floats(outputs):
        if metric == "error":
            found.append(torch.randn(value.shape, generator=generator, dtype=value.dtype))
            continue
        chances = value.detach().softmax(-1)
        drawn = torch.multinomial(chances.flatten(0, -2), 1, generator=generator)
        label = torch.zeros_like(chances).flatten(0, -2).scatter_(1, drawn, 1.0)
        found.append(label.reshape(chances.shape) - chances)
    return found


def power(outputs: Sequence[Any], metric: Metric) -> float:
    """What damages are divided by: ``|y|^2``; or twice the number of distributions."""
    if metric == "error":
        return sum(float(value.detach().double().square().sum()) for value in floats(outputs))
    return sum(2.0 * value[..., 0].numel() for value in floats(outputs))
