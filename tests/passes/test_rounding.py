from __future__ import annotations

import torch

from regauge.passes.rounding import gptq, nearest, scales


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
