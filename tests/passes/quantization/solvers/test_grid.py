from __future__ import annotations

import pytest
import torch
from matrices import layer

from regauge.ir.formats import Parameters, named
from regauge.passes.quantization.solvers import (
    GPTQ,
    CoordinateDescent,
    Grid,
    KBest,
    Solver,
    solved,
)


def of(name: str, weight: torch.Tensor) -> Grid:
    form = named(name)
    return Grid.of(form, weight, form.fit(weight))


@pytest.mark.parametrize("solver", [GPTQ(), KBest(3), CoordinateDescent()])
@pytest.mark.parametrize(
    "name", ["int4-g8-asym", "int8-channel", "fp4-e2m1-token", "int4-tensor", None]
)
def test_matrices_solved_together_are_as_each_by_itself(solver: Solver, name: str | None) -> None:
    first, hessian = layer(12, 16)
    weights = [first, layer(5, 16, seed=3)[0]]
    if name is None:
        grids = [Grid.channelwise(weight, pairs=True) for weight in weights]
    else:
        grids = [of(name, weight) for weight in weights]
    found = solved(solver, weights, hessian, grids)
    for weight, grid, solution in zip(weights, grids, found, strict=True):
        torch.testing.assert_close(solution.values, solver.solve(weight, hessian, grid).values)
        torch.testing.assert_close(grid.codes(solution.values).dequantize(), solution.values)


def test_grids_that_share_a_scale_or_differ_are_not_stacked() -> None:
    one, other = layer(4, 16)[0], layer(6, 16)[0]
    stacked = Grid.stacked([of("int4-g8", one), of("int4-g8", other)])
    assert stacked is not None and stacked.shape == (10, 16)
    assert Grid.stacked([of("int4-tensor", one), of("int4-tensor", other)]) is None
    assert Grid.stacked([of("int4-g2@0", one), of("int4-g2@0", other)]) is None
    assert Grid.stacked([of("int4-g8", one), of("int4-g4", other)]) is None
    assert Grid.stacked([Grid.channelwise(one, pairs=True), Grid.channelwise(one)]) is None


def test_a_scale_of_the_whole_tensor_keeps_grids_apart() -> None:
    form, weight = named("int4-g8"), layer(4, 16)[0]
    parameters = form.fit(weight)
    whole = Parameters(parameters.scale, torch.tensor(2.0), parameters.zero)
    assert Grid.stacked([Grid.of(form, weight, whole)] * 2) is None


def test_columns_of_a_group_share_a_row_of_steps() -> None:
    weight = layer(4, 20)[0]
    grid = of("int4-g8-pad-asym", weight)  # the last group has four columns
    assert grid.zero is not None and grid.step.shape == grid.zero.shape == (3, 4)
    steps = grid.form.spread(grid.parameters.step, weight.shape)
    for column in range(20):
        assert torch.equal(grid.step[column // grid.run], steps[:, column])
        found = grid.round(column, weight[:, column][None], torch.zeros(20, 4))
        torch.testing.assert_close(found[0], grid.nearest(weight)[:, column])
