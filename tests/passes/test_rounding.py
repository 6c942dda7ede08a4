from __future__ import annotations

import torch

from regauge.ir.codes import fits_pairs, in_kernel_order, out_of_kernel_order
from regauge.passes.rounding import gptq, making_up, nearest, rounded, scales


def sample(rows: int = 12, columns: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    data = torch.randn(500, columns, generator=generator, dtype=torch.float64) @ mix
    return weight, data.T @ data


def damage(weight: torch.Tensor, codes: torch.Tensor, hessian: torch.Tensor) -> float:
    error = codes * scales(weight) - weight
    return float(torch.trace(error @ hessian @ error.T))


def test_nearest_is_within_half_a_step_and_symmetric() -> None:
    weight, _ = sample()
    codes = nearest(weight, scales(weight))
    assert codes.dtype == torch.int8
    assert bool(((codes * scales(weight) - weight).abs() <= scales(weight) / 2 + 1e-12).all())
    assert torch.equal(nearest(-weight, scales(weight)), -codes)


def test_a_row_of_zeros_stays_zero() -> None:
    weight = torch.zeros(2, 4)
    assert torch.equal(nearest(weight, scales(weight)), torch.zeros(2, 4, dtype=torch.int8))


def test_gptq_without_correlation_rounds_to_the_nearest() -> None:
    weight, _ = sample()
    eye = torch.eye(weight.shape[1], dtype=torch.float64)
    assert torch.equal(gptq(weight, scales(weight), eye), nearest(weight, scales(weight)))


def test_gptq_does_less_damage_than_the_nearest() -> None:
    weight, hessian = sample()
    plain = damage(weight, nearest(weight, scales(weight)), hessian)
    assert damage(weight, gptq(weight, scales(weight), hessian), hessian) < 0.6 * plain


def test_gptq_does_not_depend_on_the_block_size() -> None:
    weight, hessian = sample()
    one, all_ = (gptq(weight, scales(weight), hessian, block=b) for b in (1, 64))
    assert torch.equal(one, all_)


def test_gptq_takes_dead_channels() -> None:
    weight, hessian = sample()
    hessian[3], hessian[:, 3] = 0, 0
    assert gptq(weight, scales(weight), hessian).shape == weight.shape


def test_pairs_obey_the_limit_of_16_bits() -> None:
    weight, hessian = sample(columns=41)
    weight[:, 6:8] = 3 * weight.abs().max()  # two neighbours at the limit
    plain = nearest(weight, scales(weight))
    assert not fits_pairs(plain)
    codes, scale = rounded(weight, pairs=True)
    assert fits_pairs(codes)
    assert fits_pairs(gptq(weight, scale, hessian, pairs=True))
    assert fits_pairs(gptq(weight, scales(weight), hessian, pairs=True))
    sums = codes[:, :40].long().unflatten(1, (-1, 2)).sum(-1).abs()
    assert int(sums.max()) * 255 < 2**15


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


def test_making_up_gives_back_what_the_exact_inputs_gave() -> None:
    generator = torch.Generator().manual_seed(1)
    weight, _ = sample()
    exact = torch.randn(500, 40, generator=generator, dtype=torch.float64)
    mix = torch.eye(40, dtype=torch.float64) + 0.1 * torch.rand(40, 40, generator=generator)
    at_hand = exact @ mix  # all of the error follows from the inputs
    drift, hessian = (exact - at_hand).T @ at_hand, at_hand.T @ at_hand
    found = weight + weight @ making_up(drift, hessian, 0)
    torch.testing.assert_close(at_hand @ found.T, exact @ weight.T, rtol=0, atol=1e-9)
    damped = weight @ making_up(drift, hessian, 1.0)
    assert 0 < float(damped.norm()) < float((found - weight).norm())
    assert not bool(making_up(torch.zeros(40, 40).double(), hessian, 0.3).any())
