"""Codes against an oracle in exact fractions: numbers by their standards, the nearest by search."""

from __future__ import annotations

from bisect import bisect_left
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from scipy.stats import norm

from regauge.ir import InputError
from regauge.ir.formats import (
    Binary,
    Codebook,
    Element,
    Integer,
    Logarithmic,
    Minifloat,
    Scalar,
    named,
)
from regauge.ir.formats.floats import bias_of_range, bias_of_scale, scale_of_bias

Numbers = dict[int, Fraction]


def integers(width: int, signed: bool, fraction: int = 0, narrow: bool = False) -> Numbers:
    half = 2 ** (width - 1)
    every = range(-half + narrow, half) if signed else range(2 * half)
    return {value % (2 * half): Fraction(value, 2**fraction) for value in every}


def floats(e: int, m: int, least: int = 0) -> Numbers:
    """Positive numbers and zero of a float; the codes of the last ``least`` stand for none."""
    bias = 2 ** (e - 1) - 1
    found: Numbers = {}
    for code in range(2 ** (e + m) - least):
        exponent, mantissa = divmod(code, 2**m)
        one = Fraction(mantissa, 2**m) + (exponent > 0)
        found[code] = one * Fraction(2) ** (max(exponent, 1) - bias)
    return found


def oracle(numbers: Numbers, values: torch.Tensor) -> list[int]:
    """The codes of the nearest numbers, the even one of two as near."""
    order = sorted((number, code) for code, number in numbers.items())
    floats = [float(number) for number, _ in order]  # without error: they have at most 8 bits
    found: list[int] = []
    for value in values.tolist():
        place = bisect_left(floats, value)
        near = order[max(place - 1, 0) : place + 1]
        found.append(min(near, key=lambda p: (abs(p[0] - Fraction(value)), p[1] % 2))[1])
    return found


def probes(numbers: Numbers, dtype: torch.dtype) -> torch.Tensor:
    """Numbers, the middles between them, their neighbours in the dtype, and far and random ones."""
    values = torch.tensor(sorted(float(number) for number in numbers.values()), dtype=dtype)
    points = torch.cat([values, (values[1:] + values[:-1]) / 2])
    up = torch.nextafter(points, torch.full_like(points, torch.inf))
    down = torch.nextafter(points, torch.full_like(points, -torch.inf))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(100, generator=generator, dtype=dtype) * values.max() / 2
    far = torch.tensor([1e25, -1e25], dtype=dtype) * values.max()
    return torch.cat([points, up, down, noise, far])


INTEGERS = [
    *((Integer(b), integers(b, True)) for b in range(2, 9)),
    *((Integer(b, signed=False), integers(b, False)) for b in range(1, 9)),
    (Integer(8, fraction=6), integers(8, True, 6)),
    (Integer(5, fraction=4), integers(5, True, 4)),
    (Integer(8, narrow=True), integers(8, True, narrow=True)),
]
FLOATS = [
    (Minifloat(4, 3), floats(4, 3, least=1)),
    (Minifloat(5, 2), floats(5, 2, least=4)),
    (Minifloat(4, 3, specials="none"), floats(4, 3)),
    *((Minifloat(e, m), floats(e, m)) for e, m in [(3, 2), (2, 3), (2, 1), (3, 0), (2, 2)]),
    *((Minifloat(e, m), floats(e, m)) for e, m in [(1, 2), (3, 4), (6, 1), (1, 0)]),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("element", "numbers"), INTEGERS, ids=[str(e) for e, _ in INTEGERS])
def test_integers_are_the_nearest_ties_to_even(
    element: Integer, numbers: Numbers, dtype: torch.dtype
) -> None:
    tried = probes(numbers, dtype)
    wanted = oracle(numbers, tried)
    codes = element.encode(tried)
    assert codes.dtype == torch.uint8
    assert codes.tolist() == wanted
    assert element.decode(codes, torch.float64).tolist() == [float(numbers[c]) for c in wanted]
    # the definition, without the shortcut
    assert torch.equal(Scalar.nearest(element, tried), codes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("element", "numbers"), FLOATS, ids=[str(e) for e, _ in FLOATS])
def test_floats_are_the_nearest_ties_to_even_and_keep_their_sign(
    element: Minifloat, numbers: Numbers, dtype: torch.dtype
) -> None:
    tried = probes(numbers, dtype)
    tried = torch.cat([tried, -tried])
    sign = 2 ** (element.bits - 1)
    signs = tried.signbit().tolist()
    wanted = [c + sign * s for c, s in zip(oracle(numbers, tried.abs()), signs, strict=True)]
    assert element.encode(tried).tolist() == wanted
    assert element.decode(element.encode(tried), torch.float64).tolist() == [
        float(numbers[code % sign]) * (-1) ** (code // sign) for code in wanted
    ]


@pytest.mark.parametrize(
    ("element", "dtype"),
    [
        (Minifloat(4, 3), torch.float8_e4m3fn),
        (Minifloat(5, 2), torch.float8_e5m2),
    ],
    ids=str,
)
def test_eight_bits_are_those_of_torch(element: Minifloat, dtype: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    theirs = codes.view(dtype).double()
    assert torch.equal(element.table.isnan(), theirs.isnan())
    assert torch.equal(element.table[~theirs.isnan()], theirs[~theirs.isnan()])
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(50_000, generator=generator) * torch.exp2(
        torch.randint(-20, 20, (50_000,), generator=generator)
    )
    values = values.clamp(element.low, element.high)  # beyond, torch's E5M2 has infinity
    assert torch.equal(element.encode(values), values.to(dtype).view(torch.uint8))
    finite = theirs[theirs.isfinite()]
    assert torch.equal(element.encode(finite), codes[theirs.isfinite()])


@pytest.mark.parametrize(
    ("element", "dtype"),
    [
        (Minifloat(3, 2), ml_dtypes.float6_e3m2fn),
        (Minifloat(2, 3), ml_dtypes.float6_e2m3fn),
        (Minifloat(2, 1), ml_dtypes.float4_e2m1fn),
    ],
    ids=str,
)
def test_fewer_bits_are_those_of_the_microscaling_formats(element: Minifloat, dtype: Any) -> None:
    codes = np.arange(2**element.bits, dtype=np.uint8)
    assert element.table.tolist() == codes.view(dtype).astype(np.float64).tolist()
    values = np.random.default_rng(0).normal(size=20_000).astype(np.float32) * 3
    values = values.clip(element.low, element.high)
    theirs = values.astype(dtype).view(np.uint8)
    assert element.encode(torch.from_numpy(values)).tolist() == theirs.tolist()


def test_e2m1_has_the_numbers_of_its_standard() -> None:
    assert Minifloat(2, 1).table[:8].tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]


@pytest.mark.parametrize(("e", "m"), [(2, 1), (3, 0), (1, 2), (4, 3), (3, 4)])
@pytest.mark.parametrize("bias", [-0.7, 1.25, 3.0])
def test_a_real_bias_is_the_quantizer_of_the_paper(e: int, m: int, bias: float) -> None:
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(5000, generator=generator, dtype=torch.float64) * 2.0 ** (2 - bias)
    top = (2 - 2.0**-m) * 2.0 ** (2**e - 1 - bias)
    clipped = values.clamp(-top, top)
    exponent = torch.floor(torch.log2(clipped.abs()) + bias).clamp(min=1)
    step = torch.exp2(exponent - m - bias)
    wanted = step * torch.round(clipped / step)
    element = Minifloat(e, m, bias, specials="none")
    found = element.decode(element.encode(values), torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_a_bias_is_the_logarithm_of_a_scale() -> None:
    bias = bias_of_range(torch.tensor([6.0, 0.37]), 2, 1)
    assert float(bias[0]) == pytest.approx(1.0, abs=1e-12)  # the standard one
    scale = scale_of_bias(bias, 2)
    torch.testing.assert_close(scale, torch.tensor([1.0, 0.37 / 6]).double(), rtol=1e-7, atol=0)
    torch.testing.assert_close(bias_of_scale(scale, 2), bias)
    element = Minifloat(2, 1, float(bias[1]))
    torch.testing.assert_close(element.table, Minifloat(2, 1).table * scale[1], rtol=1e-12, atol=0)


def test_nf4_is_the_quantiles_of_a_normal_distribution() -> None:
    tail = 1 - 0.5 * (1 / 30 + 1 / 32)
    above = norm.ppf(np.linspace(tail, 0.5, 9)[:-1])
    below = -norm.ppf(np.linspace(tail, 0.5, 8)[:-1])
    numbers = np.sort(np.concatenate([above, below, [0.0]])) / above.max()
    np.testing.assert_allclose(named("nf4").element.table.numpy(), numbers, atol=2e-7)
    assert len(named("nf3").element.table) == 8


@pytest.mark.parametrize("name", ["nf2", "nf3", "nf4", "nf6", "uniform1", "uniform2", "ternary"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codebooks_give_the_nearest_number(name: str, dtype: torch.dtype) -> None:
    element = named(name).element
    table = [Fraction(float(number)) for number in element.table]
    tried = probes(dict(enumerate(table)), dtype)
    for value, code in zip(tried, element.encode(tried).tolist(), strict=True):
        exact = Fraction(float(value))
        assert abs(table[code] - exact) == min(abs(number - exact) for number in table)


def test_ties_of_codebooks_go_where_they_say() -> None:
    half = torch.tensor([-0.5, 0.5])
    assert named("ternary").element.encode(half).tolist() == [1, 1]  # to zero
    assert Codebook("steps", (-1.0, 0.0, 1.0)).encode(half).tolist() == [0, 1]  # down
    assert named("uniform1").element.encode(torch.zeros(1)).tolist() == [0]
    assert Binary().encode(torch.tensor([0.0, -0.0, -1e-30, 2.0])).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(("width", "parts"), [(2, 1), (4, 1), (4, 2), (3, 2)])
def test_logarithms_round_the_logarithm_and_end_in_zero(width: int, parts: int) -> None:
    element = Logarithmic(width, parts)
    last = 2**width - 1
    values = torch.rand(4000, generator=torch.Generator().manual_seed(3)).double() ** 6
    wanted = torch.round(-parts * torch.log2(values)).clamp(0, last)
    codes = element.encode(values)
    assert codes.tolist() == wanted.int().tolist()
    assert element.encode(torch.tensor([0.0, 5.0, -1.0])).tolist() == [last, 0, last]
    q = wanted[wanted < last]
    torch.testing.assert_close(
        element.decode(codes, torch.float64)[wanted < last], 2 ** (-q / parts)
    )
    assert not bool(element.decode(codes)[wanted == last].any())


def test_log_root_2_is_a_shift_with_one_of_two_scales() -> None:
    q = torch.arange(15)
    shifted = (q % 2 * (2**0.5 - 1) + 1) * 2.0 ** -torch.ceil(q / 2)
    torch.testing.assert_close(Logarithmic(4, 2).table[:15], shifted.double(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_as_it_is(dtype: torch.dtype) -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(4)).to(dtype)
    for element in (Integer(4), Minifloat(2, 1), named("nf4").element):
        assert torch.equal(element.encode(values), element.encode(values.double()))


def test_integers_come_as_kernels_take_them() -> None:
    codes = Integer(4).encode(torch.tensor([-8.0, -3.0, 0.0, 7.0, 9.0]))
    assert codes.tolist() == [8, 13, 0, 7, 7]
    found = Integer(4).integers(codes)
    assert found.dtype == torch.int8 and found.tolist() == [-8, -3, 0, 7, 7]
    assert Integer(4, signed=False).integers(codes) is codes


@pytest.mark.parametrize("name", ["int4", "fp8-e4m3", "fp8-e5m2", "nf4", "log2-4", "phase", "d4"])
def test_what_is_not_finite_is_refused_by_name(name: str) -> None:
    element = named(name).element
    values = torch.zeros(3, 4)
    values[1, 2], values[2, 0] = torch.nan, -torch.inf
    text = (
        f"{element} has no code for NaN and infinity: 2 of 12 numbers are not finite, the first "
        "at [1, 2]"
    )
    with pytest.raises(InputError) as error:
        element.encode(values)
    assert error.value.what == text


@pytest.mark.parametrize(
    "make",
    [
        lambda: Integer(9),
        lambda: Integer(1),
        lambda: Minifloat(0, 3),
        lambda: Minifloat(4, 4),
        lambda: Codebook("twice", (0.0, 0.0, 1.0)),
        lambda: Logarithmic(4, 3),
    ],
)
def test_what_no_eight_bits_hold_is_refused(make: Any) -> None:
    with pytest.raises(InputError):
        make()


def test_elements_are_equal_by_what_they_are() -> None:
    assert Minifloat(2, 1) == Minifloat(2, 1) != Minifloat(2, 1, 1.5)
    assert {Integer(4), Integer(4), Integer(4, signed=False)} == {
        Integer(4, signed=False),
        Integer(4),
    }
    assert isinstance(Integer(4), Element)
