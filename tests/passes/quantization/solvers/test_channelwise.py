from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from matrices import damage, layer

from regauge.ir.codes import fits_pairs, in_kernel_order, out_of_kernel_order
from regauge.passes.quantization.solvers import SOLVERS, Grid, nearest, rounded, scales


def test_nearest_is_within_half_a_step_and_symmetric() -> None:
    weight, _ = layer()
    codes = nearest(weight, scales(weight))
    assert codes.dtype == torch.int8
    assert bool(((codes * scales(weight) - weight).abs() <= scales(weight) / 2 + 1e-12).all())
    assert torch.equal(nearest(-weight, scales(weight)), -codes)


def test_a_row_of_zeros_stays_zero() -> None:
    weight = torch.zeros(2, 4)
    assert torch.equal(nearest(weight, scales(weight)), torch.zeros(2, 4, dtype=torch.int8))


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_keeps_the_limit_of_16_bits(name: str) -> None:
    weight, hessian = layer(columns=41)
    weight[:, 6:8] = 3 * weight.abs().max()  # two neighbours at the limit
    assert not fits_pairs(nearest(weight, scales(weight)))
    grid = Grid.channelwise(weight, pairs=True)
    values = SOLVERS[name].solve(weight, hessian, grid).values
    codes = grid.codes(values).codes.view(torch.int8)
    assert fits_pairs(codes)
    assert damage(weight, values, hessian) < 0.05 * damage(weight, 0 * weight, hessian)
    sums = codes[:, :40].long().unflatten(1, (-1, 2)).sum(-1).abs()
    assert int(sums.max()) * 255 < 2**15


def test_of_a_pair_the_one_that_comes_last_keeps_the_limit() -> None:
    weight, _ = layer(columns=4)
    weight[:, :2] = weight.abs().max()  # codes of 127, and no greater scale to make them less
    grid = Grid.channelwise(weight)
    values = 127 * grid.step[:1]
    chosen = torch.zeros(4, 12, dtype=torch.float64)
    free, limited = grid, replace(grid, pairs=True)
    for one in (free, limited):
        assert torch.equal(one.round(0, values, chosen), values)
    chosen[0] = values
    assert torch.equal(free.round(1, values, chosen), values)
    torch.testing.assert_close(limited.round(1, values, chosen), grid.step[:1])


def test_codes_that_fit_stay_as_they_are() -> None:
    codes = torch.tensor([[127, -127, 64, 64, -100, -28, 127, 1, 5]], dtype=torch.int8)
    assert fits_pairs(codes)
    assert torch.equal(nearest(codes.float(), torch.ones(1, 1), pairs=True), codes)
    assert not fits_pairs(torch.tensor([[1, -64, -65, 3], [0, 0, 65, 64]], dtype=torch.int8))


def test_scales_are_stretched_only_where_pairs_need_it() -> None:
    weight = torch.tensor([[127.0, -127.0, 20.0, 10.0], [127.0, 127.0, 20.0, 10.0]])
    _, scale = rounded(weight, pairs=True)
    assert scale[0] == 1
    assert 1.9 < float(scale[1]) <= 2.0


def test_kernels_of_convolutions_add_over_channels_first() -> None:
    weight = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    rows = in_kernel_order(weight)
    assert rows[0, :4].tolist() == [0, 4, 8, 1]
    assert torch.equal(out_of_kernel_order(rows, weight.shape), weight)
