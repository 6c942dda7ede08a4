"""Our own ops have the derivatives of what they compute."""

from __future__ import annotations

import pytest
import torch

from regauge.ir import own


def noise(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("ends", [(2, 2, 5), (2, 3, 4)], ids=["an empty group", "rows left over"])
def test_a_grouped_product_is_differentiated_by_both_factors(ends: tuple[int, ...]) -> None:
    offsets = torch.tensor(ends)
    torch.autograd.gradcheck(
        lambda rows, weight: own.grouped_mm(rows, weight, offsets), (noise(5, 3), noise(3, 3, 2))
    )


@pytest.mark.parametrize("weights", [(), (noise(4),)], ids=["plain", "with weights"])
def test_a_compressed_norm_is_differentiated(weights: tuple[torch.Tensor, ...]) -> None:
    torch.autograd.gradcheck(
        lambda *given: own.crms_norm(*given, eps=1e-3), (noise(3, 4), *weights)
    )
