"""What graphs are held against."""

from __future__ import annotations

import pytest
import torch
from oracle import FirstOfTies, eager_in_double


@pytest.mark.parametrize("largest", [True, False])
def test_topk_takes_the_first_of_equal_values(largest: bool) -> None:
    x = torch.tensor([[0.0, 2.0, 0.0, 2.0, 0.0, 2.0]])
    with FirstOfTies():
        values, places = torch.topk(x, 4, largest=largest)
    assert values.tolist() == [[2, 2, 2, 0] if largest else [0, 0, 0, 2]]
    assert places.tolist() == [[1, 3, 5, 0] if largest else [0, 2, 4, 1]]


def test_topk_without_ties_is_pytorchs() -> None:
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    wanted = torch.topk(x, 2, dim=0)
    with FirstOfTies():
        found = torch.topk(x, 2, dim=0)
    assert all(map(torch.equal, found, wanted))


def test_numbers_and_casts_that_name_float32_are_in_double() -> None:
    class Named(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.to(torch.float32) * torch.tensor(0.95, dtype=torch.float32)

    (found,) = eager_in_double(Named(), (torch.tensor([1 / 3]),))
    assert found.item() == torch.tensor(1 / 3).double().item() * 0.95
