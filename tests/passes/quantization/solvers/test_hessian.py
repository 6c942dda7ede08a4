from __future__ import annotations

import pytest
import torch
from matrices import layer

from regauge.ir import InputError
from regauge.ir.formats import named
from regauge.passes.quantization.solvers import SOLVERS, Grid, Hessian
from regauge.passes.quantization.solvers.hessian import ORDERS


@pytest.mark.parametrize("order", ORDERS)
def test_the_objective_falls_apart_into_a_square_for_each_column(order: str) -> None:
    weight, hessian = layer()
    factor = hessian.factor(order, 0.01)  # type: ignore[arg-type]
    error = weight[:, factor.order]
    squares = (error @ factor.feedback.T).square() @ factor.power
    torch.testing.assert_close(squares, hessian.cost(weight, 0.01), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("damp", [None, 0.0])
def test_dead_channels_are_rounded_to_the_nearest(name: str, damp: float | None) -> None:
    weight, hessian = layer()
    matrix = hessian.matrix.clone()
    matrix[[3, 7]], matrix[:, [3, 7]] = 0, 0
    hessian, form = Hessian(matrix), named("int4-g8")
    grid = Grid.of(form, weight, form.fit(weight))
    solver = SOLVERS[name]
    if damp is not None and solver.learns:
        solver = type(solver)(damp=damp)  # type: ignore[call-arg]
    found = solver.solve(weight, hessian, grid).values
    assert torch.equal(found[:, [3, 7]], grid.nearest(weight)[:, [3, 7]])
    assert hessian.notes == ["2 dead channels rounded to the nearest"]


@pytest.mark.parametrize("name", ["gptq", "k-best", "coordinate-descent"])
def test_a_singular_hessian_is_damped_as_far_as_it_needs(name: str) -> None:
    weight, hessian = layer()
    data = torch.randn(9, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    hessian, form = Hessian(data.T @ data), named("int4-g8")
    grid = Grid.of(form, weight, form.fit(weight))
    solver = type(SOLVERS[name])(damp=0.0)  # type: ignore[call-arg]
    found = solver.solve(weight, hessian, grid).values
    assert (
        hessian.cost(found - weight).sum() < 0.2 * hessian.cost(grid.nearest(weight) - weight).sum()
    )
    if name != "coordinate-descent":  # which needs no factor
        assert hessian.notes == ["a singular Hessian, damped by 1e-10"]
    assert layer()[1].notes == []


def test_nothing_seen_is_rounded_to_the_nearest() -> None:
    weight, _ = layer()
    grid = Grid.channelwise(weight)
    for solver in SOLVERS.values():
        hessian = Hessian(torch.zeros(40, 40, dtype=torch.float64))
        assert torch.equal(solver.solve(weight, hessian, grid).values, grid.nearest(weight))


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(InputError, match="a Hessian is not finite"):
        Hessian(torch.full((4, 4), torch.nan, dtype=torch.float64))


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(InputError, match="columns have no order 'ascending'"):
        layer()[1].factor("ascending", 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", [1, 4])
def test_feedback_in_single_precision_is_rounded_once(unit: int) -> None:
    _, hessian = layer(columns=200)  # more than are converted at once
    plain = hessian.factor("descending", 0.01, unit)
    single = hessian.factor("descending", 0.01, unit, torch.float32)
    assert torch.equal(single.feedback, plain.feedback.float())
    assert torch.equal(single.power, plain.power) and torch.equal(single.order, plain.order)


def test_the_factor_is_that_of_cholesky_bit_for_bit() -> None:
    _, hessian = layer(columns=200)
    factor = hessian.factor("descending", 0.01)
    order = factor.order.flip(0)
    ordered = hessian.damped(0.01)[order[:, None], order]
    upper = torch.linalg.cholesky(ordered).flip(0, 1)
    assert torch.equal(factor.feedback, (upper / upper.diagonal()).T)
