"""The split and the bias are those with the least error of what is computed."""

from __future__ import annotations

import torch

from regauge.ir.formats import named, searched
from regauge.passes.quantization.float_search import float_of_rows, float_of_weight


def damage(rows: torch.Tensor, found: torch.Tensor, weight: torch.Tensor) -> float:
    return float(((found - rows) @ weight.T).square().sum())


def test_the_result_of_the_readers_is_what_counts() -> None:
    """One channel is large, and nobody reads it: it is clipped."""
    generator = torch.Generator().manual_seed(0)
    rows, weight = (
        torch.randn(256, 16, generator=generator),
        torch.randn(8, 16, generator=generator),
    )
    rows[:, 3] *= 40
    weight[:, 3] = 0
    form, parameters = float_of_rows(rows, [weight], 4)
    best = form.quantize(rows, parameters).dequantize()
    for name in ("fp4-e2m1", "fp4-e3m0", "fp4-e1m2", "int4"):
        other = named(name)
        plain = other.quantize(rows).dequantize()
        assert damage(rows, best, weight) < 0.9 * damage(rows, plain, weight)
        own = other.quantize(rows, searched(other, rows)).dequantize()  # by its own error
        assert damage(rows, best, weight) <= damage(rows, own, weight)


def test_a_heavy_tail_wants_exponents_and_even_numbers_want_mantissas() -> None:
    generator = torch.Generator().manual_seed(0)
    even = torch.rand(512, 16, generator=generator) * 2 - 1
    heavy = torch.exp(3 * torch.randn(512, 16, generator=generator)) * even.sign()
    eye = [torch.eye(16)]
    assert str(float_of_rows(even, eye, 4)[0]) == "fp4-e1m2"
    relative = [torch.eye(16)]
    assert str(float_of_rows(heavy, relative, 4)[0]) in ("fp4-e3m0", "fp4-e2m1")


def test_weights_have_a_bias_for_each_output() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 16, generator=generator) * torch.logspace(-2, 2, 8)[:, None]
    rows = torch.randn(256, 16, generator=generator)
    form, parameters = float_of_weight(weight, rows, 4)
    assert parameters.scale.shape == (8, 1)
    found = form.quantize(weight, parameters).dequantize()
    relative = (found - weight).norm(dim=1) / weight.norm(dim=1)
    assert float(relative.max()) < 0.2
