"""No contestant: the model as it is."""

from __future__ import annotations

from contest import Case, Made, contend, layers
from torch import nn


def quantize(case: Case, model: nn.Module) -> Made:
    return Made(model, 32, len(layers(model)))


if __name__ == "__main__":
    contend(quantize, ["torch", "transformers"])
