from __future__ import annotations

import functools

import pytest
import torch

from regauge.passes.gauges.hadamard import factors, hadamard

SIZES = [1, 2, 4, 8, 12, 20, 24, 28, 36, 44, 60, 64, 96, 144, 192, 384, 576, 768, 1152, 1536]


@pytest.mark.parametrize("n", SIZES)
def test_is_orthogonal_with_entries_of_one_size(n: int) -> None:
    matrix = hadamard(n)
    assert matrix is not None and matrix.shape == (n, n)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(n, dtype=torch.float64))
    torch.testing.assert_close(matrix.abs(), torch.full_like(matrix, n**-0.5))


@pytest.mark.parametrize("n", [3, 6, 10, 14, 35, 94])
def test_orders_that_have_none(n: int) -> None:
    assert hadamard(n) is None and factors(n) is None


def test_factors_multiply_to_the_matrix_and_are_small() -> None:
    parts = factors(1536)
    assert parts is not None and [len(part) for part in parts] == [12, 128]
    whole = hadamard(1536)
    assert whole is not None
    torch.testing.assert_close(functools.reduce(torch.kron, parts), whole)
