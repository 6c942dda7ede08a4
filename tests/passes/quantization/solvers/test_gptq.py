from __future__ import annotations

import numpy as np
import pytest
import torch
from matrices import damage, layer

from regauge.ir.formats import named
from regauge.passes.quantization.solvers import GPTQ, Grid, Hessian, Nearest
from regauge.passes.quantization.solvers.hessian import ORDERS, Order

ROOMY = named("int8-channel")  # nothing is clipped where scales have room


def unclipped(weight: torch.Tensor) -> Grid:
    """A grid with more codes on either side than any error needs."""
    parameters = ROOMY.fit(weight)
    wide = type(parameters)(parameters.scale * 8)
    return Grid.of(ROOMY, weight, wide)


def nearest_plane(weight: np.ndarray, step: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Babai's nearest plane, in plain words: the codes of the lattice point near to each row.

    Points are ``B z`` for whole z, with ``B'B = H`` up to the steps; from the last basis vector to
    the first, the plane nearest to the target is taken, and the vector's share is subtracted.
    """
    root = np.linalg.cholesky(hessian).T  # H = R'R, R upper triangular
    codes = np.zeros_like(weight)
    for row in range(len(weight)):
        basis = root * step[row]
        target = root @ weight[row]
        ortho, _ = np.linalg.qr(basis)
        for k in reversed(range(len(target))):
            axis = ortho[:, k]  # orthogonal to the basis vectors before k
            codes[row, k] = np.round((axis @ target) / (axis @ basis[:, k]))
            target = target - codes[row, k] * basis[:, k]
    return codes


@pytest.mark.parametrize("seed", range(4))
def test_its_codes_are_babais_in_the_reversed_order(seed: int) -> None:
    weight, hessian = layer(seed=seed)
    grid = unclipped(weight)
    values = GPTQ("natural", damp=0.0).solve(weight, hessian, grid).values
    codes = (values / grid.parameters.scale).round().numpy()
    # Columns are rounded from the first on, planes from the last basis vector on.
    step = grid.parameters.scale.expand_as(weight).numpy()
    found = nearest_plane(weight.flip(1).numpy(), step, hessian.matrix.flip(0, 1).numpy())
    assert np.abs(codes).max() < 127
    assert (codes != Nearest().solve(weight, hessian, grid).values.numpy() / step).any()
    np.testing.assert_array_equal(codes, found[:, ::-1])


@pytest.mark.parametrize("order", ORDERS)
def test_nothing_costs_more_than_babais_bound(order: Order) -> None:
    weight, hessian = layer()
    grid = unclipped(weight)
    values = GPTQ(order, damp=0.0).solve(weight, hessian, grid).values
    factor = hessian.factor(order, 0.0)
    cost = hessian.cost(values - weight)
    bound = grid.parameters.scale[:, 0].square() * factor.power.sum() / 4
    assert bool((cost <= bound).all())


def test_orders_lower_the_bound() -> None:
    _, hessian = layer()
    sums = [float(hessian.factor(order, 0.0).power.sum()) for order in ORDERS]
    assert ORDERS == ("natural", "descending", "pivot")
    assert sums[2] < sums[1] < sums[0]


def test_pivots_are_the_least_of_what_is_left() -> None:
    _, hessian = layer()
    factor = hessian.factor("pivot", 0.0)
    left = hessian.matrix[factor.order][:, factor.order]
    for j in reversed(range(len(left))):
        pivots = left.diagonal()
        assert pivots[j] == pivots.min()
        torch.testing.assert_close(factor.power[j], pivots[j])
        left = left[:j, :j] - left[:j, j : j + 1] @ left[j : j + 1, :j] / left[j, j]


def test_without_correlation_it_rounds_to_the_nearest() -> None:
    weight, _ = layer()
    grid = Grid.channelwise(weight)
    eye = Hessian(torch.eye(weight.shape[1], dtype=torch.float64))
    assert torch.equal(GPTQ().solve(weight, eye, grid).values, grid.nearest(weight))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["int4-g8-asym", "int3-g8", "mxfp4", "nf4-g8", "binary-channel"])
def test_it_does_less_damage_than_the_nearest(name: str, order: Order) -> None:
    weight, hessian = layer(columns=64)
    grid = Grid.of(named(name), weight, named(name).fit(weight))
    found = GPTQ(order).solve(weight, hessian, grid).values
    assert damage(weight, found, hessian) < 0.85 * damage(weight, grid.nearest(weight), hessian)
    torch.testing.assert_close(grid.codes(found).dequantize(), found)


def test_vectors_are_rounded_one_after_another() -> None:
    weight, hessian = layer(columns=64)
    form = named("d4-channel")
    grid = Grid.of(form, weight, form.fit(weight))
    plain = damage(weight, grid.nearest(weight), hessian)
    for order in ORDERS:
        found = GPTQ(order).solve(weight, hessian, grid).values
        torch.testing.assert_close(grid.codes(found).dequantize(), found)
        assert damage(weight, found, hessian) < 0.8 * plain


def test_units_of_one_column_and_of_several_have_one_objective() -> None:
    """Of a unit's columns, the feedback takes the corner of R out, and not its diagonal alone."""
    _, hessian = layer()
    error = torch.randn(40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    factor = hessian.factor("natural", 0.0, 4)
    upper = torch.linalg.cholesky(hessian.matrix.flip(0, 1)).flip(0, 1)
    moved = torch.zeros(40, dtype=torch.float64)
    for i in range(0, 40, 4):
        moved[i : i + 4] = error[i : i + 4] + factor.feedback[i : i + 4, :i] @ error[:i]
    corners = torch.block_diag(*(upper[i : i + 4, i : i + 4] for i in range(0, 40, 4)))
    torch.testing.assert_close((moved @ corners).square().sum(), hessian.cost(error[None])[0])


def test_it_does_not_depend_on_the_block_size() -> None:
    weight, hessian = layer()
    grid = Grid.channelwise(weight)
    one, all_ = (GPTQ(block=b).solve(weight, hessian, grid).values for b in (1, 64))
    assert torch.equal(one, all_)
