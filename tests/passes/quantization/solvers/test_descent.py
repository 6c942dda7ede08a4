from __future__ import annotations

import pytest
import torch
from matrices import damage, layer

from regauge.ir import InputError
from regauge.ir.formats import named
from regauge.passes.quantization.solvers import GPTQ, CoordinateDescent, Grid, Nearest

NAMES = ["int4-g8-asym", "int3-g8", "mxfp4", "nf4-g8"]


def grid_of(name: str, weight: torch.Tensor) -> Grid:
    return Grid.of(named(name), weight, named(name).fit(weight))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("start", [Nearest(), GPTQ(damp=0.0)])
def test_it_improves_on_what_it_starts_with(name: str, start: Nearest | GPTQ) -> None:
    weight, hessian = layer(columns=64)
    grid = grid_of(name, weight)
    begun = hessian.cost(start.solve(weight, hessian, grid).values - weight)
    found = CoordinateDescent(start=start, damp=0.0).solve(weight, hessian, grid)
    assert found.outliers is None
    cost = hessian.cost(found.values - weight)
    assert bool((cost <= begun).all())
    assert float(cost.sum()) < 0.95 * float(begun.sum())
    torch.testing.assert_close(grid.codes(found.values).dequantize(), found.values)


def test_each_step_is_the_best_of_its_column() -> None:
    weight, hessian = layer()
    grid = grid_of("int3-g8", weight)
    solver = CoordinateDescent(sweeps=60, relax=False, damp=0.0)
    found = solver.solve(weight, hessian, grid).values
    least = hessian.cost(found - weight)
    for j in range(40):
        for sign in (-1, 1):
            moved = found.clone()
            moved[:, j] += sign * grid.step[j // 8]
            moved = grid.nearest(moved)
            assert bool((hessian.cost(moved - weight) >= least * (1 - 1e-9)).all())


def test_it_does_not_depend_on_the_block_size() -> None:
    weight, hessian = layer()
    grid = grid_of("int3-g8", weight)
    one, all_ = (CoordinateDescent(block=b).solve(weight, hessian, grid).values for b in (1, 64))
    assert torch.equal(one, all_)


def test_the_authors_start_is_the_weights() -> None:
    weight, hessian = layer(columns=64)
    grid = grid_of("int3-g8", weight)
    found = CoordinateDescent(start=None, sweeps=25, damp=0.0).solve(weight, hessian, grid)
    plain = damage(weight, GPTQ(damp=0.0).solve(weight, hessian, grid).values, hessian)
    assert damage(weight, found.values, hessian) < plain


@pytest.mark.parametrize("columns", [False, True])
def test_outliers_are_few_and_lower_the_damage(columns: bool) -> None:
    weight, hessian = layer(rows=32, columns=64)
    weight[:, 5] *= 6  # a column that stretches its groups' scales
    grid = grid_of("int3-g8", weight)
    plain = CoordinateDescent(damp=0.0).solve(weight, hessian, grid)
    solver = CoordinateDescent(damp=0.0, outliers=0.05, columns=columns)
    found = solver.solve(weight, hessian, grid)
    assert found.outliers is not None
    kept = found.outliers != 0
    assert 0 < int(kept.sum()) <= 0.05 * weight.numel()
    assert not columns or int(kept.any(0).sum()) <= 0.05 * 64
    assert damage(weight, found.total, hessian) < 0.95 * damage(weight, plain.values, hessian)
    torch.testing.assert_close(grid.codes(found.values).dequantize(), found.values)


def test_a_share_of_outliers_is_below_one() -> None:
    with pytest.raises(InputError, match=r"outliers=1\.0 is not what CoordinateDescent takes"):
        CoordinateDescent(outliers=1.0)
