from __future__ import annotations

import pytest
import torch
from matrices import damage, layer

from regauge.ir.formats import named
from regauge.passes.quantization.solvers import Grid, Hessian, low_rank


def rounding() -> tuple[torch.Tensor, torch.Tensor, Hessian]:
    weight, hessian = layer(rows=24, columns=64)
    form = named("int3-g16")
    return weight, Grid.of(form, weight, form.fit(weight)).nearest(weight), hessian


def test_all_of_the_rank_gives_all_of_it_back() -> None:
    weight, values, hessian = rounding()
    for given in (None, hessian):
        first, second = low_rank(weight - values, 24, given)
        torch.testing.assert_close(values + second @ first, weight, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_it_is_the_best_of_its_rank(rank: int) -> None:
    weight, values, hessian = rounding()
    error = weight - values
    first, second = low_rank(error, rank, None)
    assert first.shape == (rank, 64) and second.shape == (24, rank)
    singular = torch.linalg.svdvals(error)
    torch.testing.assert_close((error - second @ first).norm(), singular[rank:].norm())
    first, second = low_rank(error, rank, hessian, damp=0.0)
    root = torch.linalg.cholesky(hessian.matrix)
    least = torch.linalg.svdvals(error @ root)[rank:].square().sum()
    torch.testing.assert_close(
        damage(weight, values + second @ first, hessian), float(least), rtol=1e-9, atol=0
    )


def test_with_a_hessian_the_layer_loses_less() -> None:
    weight, values, hessian = rounding()
    plain, by_hessian = (
        damage(weight, values + second @ first, hessian)
        for first, second in (low_rank(weight - values, 4, given) for given in (None, hessian))
    )
    assert by_hessian < 0.85 * plain < 0.85 * damage(weight, values, hessian)
