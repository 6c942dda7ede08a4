"""Tensors without what most of their places hold."""

from __future__ import annotations

import pytest
import torch

from regauge.ir.sparse import Sparse, sparse_nbytes


def codes(zero: torch.Tensor, part: float, levels: int, count: int = 64) -> torch.Tensor:
    """Codes ``[8, count]``, of which that of zero, ``[8, 1]``, is more than a part."""
    generator = torch.Generator().manual_seed(0)
    shape = (8, count)
    some = torch.randint(0, levels, shape, generator=generator).to(torch.uint8)
    return torch.where(torch.rand(shape, generator=generator) < part, zero, some)


@pytest.mark.parametrize("differ", [False, True])
@pytest.mark.parametrize("halves", [False, True])
def test_every_bit_comes_back_in_the_bytes_that_are_told(halves: bool, differ: bool) -> None:
    zero = torch.arange(8, dtype=torch.uint8)[:, None] * differ + 3
    numbers = codes(zero, 0.6, 16 if halves else 256)
    tensor = numbers[:, ::2] | numbers[:, 1::2] << 4 if halves else numbers
    found = Sparse.of(tensor)
    assert found is not None
    assert (found.halves, found.rows) == (halves, 8 if differ else 1)
    assert torch.equal(found.dense(), tensor)
    others = int((numbers != zero).sum())
    bits = 4 if halves else 8
    assert found.nbytes == sparse_nbytes(numbers.numel(), others, bits, found.rows)
    assert found.nbytes < 0.8 * tensor.nbytes


def test_what_takes_no_less_is_left_alone() -> None:
    tensor = codes(torch.zeros(8, 1, dtype=torch.uint8), 0.05, 256)
    assert Sparse.of(tensor) is None
    assert Sparse.of(torch.randn(8, 8)) is None


def test_an_odd_count_of_halves() -> None:
    numbers = torch.zeros(64, dtype=torch.uint8)
    numbers[:20:2] = 5
    tensor = numbers[::2] | numbers[1::2] << 4
    found = Sparse.of(tensor)
    assert found is not None and found.halves and len(found.numbers) == 6  # zero, and ten others
    assert torch.equal(found.dense(), tensor)
