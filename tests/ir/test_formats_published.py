"""What papers say of their formats, on tensors: LLM-FP4, ZeroQuant-FP, Fairy2i."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from regauge.ir.formats import (
    Format,
    Granularity,
    Minifloat,
    Parameters,
    best_float,
    named,
    searched,
    squared_error,
    stages,
)
from regauge.ir.formats.floats import bias_of_scale
from regauge.passes.gauges.complexify import parts


def normal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def heavy(rows: int, columns: int) -> torch.Tensor:
    """Normal numbers, each of a size of its own: far outliers."""
    return normal(rows, columns) * torch.exp(normal(rows, columns, seed=1))


def loss(name: str, values: torch.Tensor) -> float:
    form = named(name)
    return squared_error(form, values, searched(form, values))


# LLM-FP4 (A32)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_the_split_follows_the_distribution(bits: int) -> None:
    even = torch.rand(32, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    chosen = [
        best_float(values, bits, Granularity("channel"))[0].element
        for values in (even, normal(32, 256), heavy(32, 256))
    ]
    exponents = [element.exponent for element in chosen if isinstance(element, Minifloat)]
    assert exponents[0] == 1  # equal steps for equal chances
    assert exponents == sorted(exponents) and exponents[2] > exponents[0]


@pytest.mark.parametrize("make", [normal, heavy])
def test_a_searched_float_beats_its_range_and_integers(
    make: Callable[[int, int], torch.Tensor],
) -> None:
    values = make(32, 256)
    form, found = best_float(values, 4, Granularity("channel"))
    least = squared_error(form, values, found)
    plain = named("fp4-e2m1-channel")
    assert least < 0.95 * squared_error(plain, values, plain.fit(values))
    integers = named("int4-channel")
    assert least < 0.8 * squared_error(integers, values, integers.fit(values))
    for name in ("fp4-e2m1-channel", "fp4-e3m0-channel", "fp4-e1m2-channel"):
        assert least <= loss(name, values)


def test_a_searched_scale_is_a_bias() -> None:
    values = normal(10, 100)
    form, found = best_float(values, 4)
    assert isinstance(form.element, Minifloat)
    bias = float(bias_of_scale(found.scale.double(), form.element.exponent))
    element = Minifloat(form.element.exponent, form.element.mantissa, bias)
    with_bias = Format(element).quantize(values, Parameters(torch.tensor(1.0)))
    torch.testing.assert_close(with_bias.dequantize(), form.quantize(values, found).dequantize())


def test_shifts_of_exponents_fold_into_the_scale() -> None:
    """Q_(b + d)(x) = 2^-d Q_b(2^d x), which moves a channel's exponent into the weights (F4.3)."""
    values = normal(10, 100).double()
    for d in (1, 3):
        shifted, plain = Minifloat(2, 1, 1.0 + d), Minifloat(2, 1)
        wanted = plain.decode(plain.encode(values * 2**d), torch.float64) / 2**d
        assert torch.equal(shifted.decode(shifted.encode(values), torch.float64), wanted)


# ZeroQuant-FP (A55)


def test_m1_rounds_each_scale_up_to_a_power_of_two() -> None:
    values = heavy(16, 128)
    plain, power = named("fp4-e2m1-channel"), named("fp4-e2m1-channel-e8m0")
    scales = plain.fit(values).scale.flatten().tolist()
    found = power.fit(values).scale.flatten().tolist()
    assert found == [2.0 ** math.ceil(math.log2(scale)) for scale in scales]
    top = power.quantize(values).dequantize().abs().amax(1)
    assert bool((top >= values.abs().amax(1) * 0.75).all())  # nothing is clipped


def test_m2_keeps_ratios_of_scales_powers_of_two() -> None:
    values = heavy(16, 128)
    plain, shared = named("fp4-e2m1-channel"), named("fp4-e2m1-channel-e8m0-down-twofold")
    scales = plain.fit(values).scale.flatten().double()
    wanted = scales.max() / torch.exp2(torch.ceil(torch.log2(scales.max() / scales)))
    torch.testing.assert_close(
        shared.fit(values).step.flatten().double(), wanted, rtol=1e-6, atol=0
    )
    assert bool((wanted <= scales * (1 + 1e-6)).all() and (wanted > scales / 2).all())


def test_the_step_between_formats_of_four_and_eight_bits_is_an_addition_to_the_exponent() -> None:
    """With scales of powers of two, E2M1 times a ratio of scales is exactly an E5M2 number."""
    form = named("fp4-e2m1-channel-e8m0-down-twofold")
    values = normal(16, 128) * torch.exp(normal(16, 1, seed=1))
    found = form.quantize(values)
    assert found.parameters.whole is not None
    cast = found.dequantize() / found.parameters.whole
    assert torch.equal(cast.to(torch.float8_e5m2).float(), cast)


def test_scales_of_powers_of_two_cost_little_once_they_are_searched() -> None:
    for values in (normal(16, 512), heavy(16, 512)):
        free = loss("fp4-e2m1-g128", values)
        for name in ("fp4-e2m1-g128-e8m0", "fp4-e2m1-g128-e8m0-down-twofold"):
            form = named(name)
            assert loss(name, values) < 1.6 * free
            assert loss(name, values) <= squared_error(form, values, form.fit(values))


# Fairy2i (A50)


def complex_pairs(weight: torch.Tensor) -> torch.Tensor:
    """U and V of a weight, real and imaginary parts side by side."""
    return torch.stack([torch.view_as_real(part).flatten(-2) for part in parts(weight)])


def left_by(name: str, values: torch.Tensor, count: int) -> tuple[float, float]:
    """The relative squared error of so many stages, and their bits for each number."""
    kept = stages(named(name), values, count)
    total = torch.stack([stage.dequantize() for stage in kept]).sum(0)
    error = (total - values).square().sum() / values.square().sum()
    return float(error), sum(stage.pack().bits for stage in kept)


def test_each_stage_of_phases_is_a_bit_and_leaves_less() -> None:
    pairs = complex_pairs(normal(256, 256))
    found = [left_by("phase", pairs, count) for count in (1, 2, 3)]
    assert [round(bits, 1) for _, bits in found] == [1.0, 2.0, 3.0]
    errors = [error for error, _ in found]
    assert errors == pytest.approx([0.363, 0.130, 0.058], rel=0.03)


def test_on_normal_weights_phases_lose_what_signs_do() -> None:
    """1 - 2 / pi at one bit, for both: what phases gain is no smaller error of the weights.

    Of a pair, the greater magnitude has the mean 2 / sqrt(pi), so 4 / pi of 2 is kept; of a single
    number, the magnitude has the mean sqrt(2 / pi).
    """
    weight = normal(256, 256)
    pairs = complex_pairs(weight)
    assert float(pairs.square().sum()) == pytest.approx(float(weight.square().sum()) / 2, rel=1e-5)
    for count in (1, 2):
        phases, signs = left_by("phase", pairs, count)[0], left_by("binary", weight, count)[0]
        assert phases == pytest.approx(signs, rel=0.01)
    assert left_by("phase", pairs, 1)[0] == pytest.approx(1 - 2 / math.pi, rel=0.01)
    # between one and two bits, three levels; at two bits, four equal steps are ahead of two stages
    ternary, bits = left_by("ternary", weight, 1)
    assert bits == pytest.approx(1.6, abs=0.01)
    assert left_by("phase", pairs, 2)[0] < ternary < left_by("phase", pairs, 1)[0]
    assert left_by("uniform2", weight, 1)[0] < left_by("phase", pairs, 2)[0]


def test_more_stages_of_any_format_leave_less() -> None:
    values = heavy(16, 128)
    for name in ("ternary-channel", "int2-g32", "mxfp4"):
        one, two = (left_by(name, values, count)[0] for count in (1, 2))
        assert two < 0.5 * one
