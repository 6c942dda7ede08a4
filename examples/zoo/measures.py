"""What is measured on the models."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def perplexity(fn: Callable[[Tensor], Any], windows: Tensor, *, batch: int = 4) -> float:
    """exp of the mean loss over every token but the first of each window.

    `fn` maps ids to logits, to an output that has `.logits`, or to a tuple that begins with them.
    """
    total = 0.0
    for ids in windows.split(batch):
        logits = _logits(fn(ids))[:, :-1].flatten(0, 1).float()
        total += F.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum").item()
    return math.exp(total / windows[:, 1:].numel())


@torch.no_grad()
def accuracy(fn: Callable[[Tensor], Any], images: Tensor, labels: Tensor) -> float:
    """The part of the images whose likeliest class is the right one."""
    return (_logits(fn(images)).argmax(-1) == labels).float().mean().item()


def relative_l2(value: Tensor, reference: Tensor) -> float:
    """‖value - reference‖ / ‖reference‖ over all elements, in float64."""
    reference = reference.detach().double()
    difference = value.detach().double() - reference
    return (difference.norm() / reference.norm()).item()


def _logits(output: Any) -> Tensor:
    logits = getattr(output, "logits", output)
    return torch.as_tensor(logits[0] if isinstance(logits, tuple | list) else logits)
