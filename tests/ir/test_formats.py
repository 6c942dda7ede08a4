"""Formats: which numbers share a scale, and how it is chosen."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from regauge.ir import InputError
from regauge.ir.formats import (
    Format,
    Granularity,
    Integer,
    Minifloat,
    Parameters,
    ScaleFormat,
    named,
)
from regauge.ir.own import dequantize, quantize
from regauge.passes.quantization.insertion import range_to_scale

NAMES = [
    "int2", "int3-g32", "int4-g32-asym", "int8-channel", "uint8", "fp8-e4m3", "fp4-e2m1-g16-e8m0",
    "mxfp4", "mxint8", "nvfp4", "bfp5-b16", "nf4-g64", "log2-4", "ternary", "phase-g32", "d4-g64",
]  # fmt: skip


def sample(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 0.1


# granularity


@pytest.mark.parametrize(
    ("name", "shape", "scale"),
    [
        ("int8", (4, 6), ()),
        ("int8-channel", (4, 6), (4, 1)),
        ("int8-channel", (4, 6, 3, 3), (4, 1, 1, 1)),
        ("int8-channel@1", (4, 6, 3), (1, 6, 1)),
        ("int8-channel@-1", (4, 6, 3), (1, 1, 3)),
        ("int8-channel", (5,), (5,)),
        ("int8-token", (2, 4, 6), (2, 4, 1)),
        ("int8-g3", (2, 4, 6), (2, 4, 2, 1)),
        ("int8-g2@0", (4, 6), (6, 2, 1)),
        ("int8-g4-pad", (2, 6), (2, 2, 1)),
        ("d4-g8", (2, 16), (2, 2, 1, 1)),
        ("phase-g8", (2, 16), (2, 2, 1, 2)),
        ("phase", (2, 16), (2,)),
        ("d4", (2, 16), ()),
    ],
)
def test_scales_have_the_shape_of_what_shares_them(
    name: str, shape: tuple[int, ...], scale: tuple[int, ...]
) -> None:
    assert named(name).fit(sample(*shape)).scale.shape == scale


@pytest.mark.parametrize("name", ["int8-channel", "int8-token", "int8-g3", "int8-g2@0", "int8"])
def test_a_scale_is_that_of_its_own_numbers(name: str) -> None:
    form, values = named(name), sample(4, 6)
    blocks = form.cut(values)
    scale = form.fit(values).scale.expand_as(blocks)
    for value, step in zip(blocks.flatten(), scale.flatten(), strict=True):
        assert abs(float(value / step)) <= 127.001
    assert torch.equal(form.join(blocks, values.shape), values)


def test_groups_along_any_axis_are_those_of_the_transposed() -> None:
    values = sample(8, 6)
    found = named("int4-g4@0").quantize(values).dequantize()
    assert torch.equal(found, named("int4-g4").quantize(values.T).dequantize().T)


def test_a_group_that_is_not_full_is_refused_or_filled_up() -> None:
    values = sample(3, 10)
    with pytest.raises(InputError) as error:
        named("int4-g4").quantize(values)
    assert error.value.what == "an axis of 10 does not divide into groups of 4"
    assert "-pad, which stores 2 zeros a row" in error.value.do
    found = named("int4-g4-pad").quantize(values)
    assert found.codes.shape == (3, 3, 4)
    assert not bool(found.codes[:, 2, 2:].any())
    assert found.dequantize().shape == (3, 10)
    filled = torch.cat([values, torch.zeros(3, 2)], 1)
    assert torch.equal(found.dequantize(), named("int4-g4").quantize(filled).dequantize()[:, :10])


# ranges


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_symmetric_range_ends_at_the_greatest_magnitude(bits: int) -> None:
    values = sample(6, 20)
    found = named(f"int{bits}-channel").fit(values).scale
    assert torch.equal(found, values.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1))


def test_eight_bits_are_what_our_ops_compute() -> None:
    values = sample(6, 20)
    form = named("int8-channel")
    found = form.quantize(values)
    scale = found.parameters.scale
    codes = quantize(values, scale, dtype=torch.int8)
    assert isinstance(form.element, Integer)
    assert torch.equal(form.element.integers(found.codes), codes)
    assert torch.equal(found.dequantize(), dequantize(codes, scale))


def test_a_zero_point_is_what_our_ops_compute() -> None:
    values = sample(6, 20) + 0.07
    form = named("int8-asym")
    scale, zero = range_to_scale(values.min(), values.max(), torch.uint8)
    given = form.of_range(values.min(), values.max())
    assert given.zero is not None
    assert torch.equal(given.scale, scale) and torch.equal(given.zero, zero.float())
    found = form.quantize(values)
    assert torch.equal(found.codes, quantize(values, scale, zero))
    assert torch.equal(found.dequantize(), dequantize(found.codes, scale, zero))
    assert not bool(form.quantize(torch.zeros(3), given).dequantize().any())  # zero is exact


def test_a_static_range_saturates() -> None:
    form = named("int4")
    given = form.of_range(torch.tensor(-0.5), torch.tensor(0.7))
    found = form.quantize(torch.tensor([-9.0, 9.0, 0.3]), given).dequantize()
    torch.testing.assert_close(found, torch.tensor([-0.8, 0.7, 0.3]))


@pytest.mark.parametrize("name", [*NAMES, "binary", "uniform2", "phase"])
def test_zeros_come_back_as_zeros(name: str) -> None:
    found = named(name).quantize(torch.zeros(48, 384)).dequantize()
    assert float(found.abs().max()) < 1e-37  # the least scale, where no code is zero


def test_one_block_of_zeros_does_not_disturb_the_others() -> None:
    values = sample(2, 64)
    values[0, :16] = 0
    found = named("nvfp4").quantize(values)
    assert torch.equal(found.parameters.scale[0, 0], torch.ones(1))
    assert not bool(found.dequantize()[0, :16].any())
    assert float((found.dequantize() - values).norm() / values.norm()) < 0.12


@pytest.mark.parametrize("name", ["int4-g32", "mxfp4", "log2-4", "phase"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(name: str, value: float) -> None:
    values = torch.zeros(2, 32)
    values[1, 3] = value
    with pytest.raises(InputError) as error:
        named(name).quantize(values)
    kind = "NaN" if math.isnan(value) else "infinity"
    assert error.value.what == (
        f"{name} has no code for {kind}: 1 of 64 numbers are not finite, the first at [1, 3]"
    )


@pytest.mark.parametrize(
    ("run", "what"),
    [
        (
            lambda: named("int4").fit(torch.zeros(0, 4)),
            "int4: a tensor without numbers has no range",
        ),
        (
            lambda: named("log2-4").fit(torch.tensor([0.5, -0.25])),
            "log2-4 has no negative numbers, and the least is -0.25",
        ),
        (
            lambda: named("int4").quantize(torch.ones(2), Parameters(torch.tensor(0.0))),
            "int4: a scale must be finite and greater than zero",
        ),
        (
            lambda: named("int4-fp16").fit(torch.tensor([7e6])),
            "a scale of 1e+06 is beyond fp16, which ends at 6.55e+04",
        ),
        (
            lambda: named("int4-e4m3").quantize(torch.ones(2), Parameters(torch.tensor(449.0))),
            "a scale of 449 is beyond e4m3, which ends at 448",
        ),
        (
            lambda: named("int4-channel@2").fit(torch.ones(2, 2)),
            "channel@2 needs axis 2 of a tensor of 2 axes",
        ),
        (
            lambda: named("int4-token").fit(torch.tensor(1.0)),
            "a single number has no token or vector to share a scale with",
        ),
        (
            lambda: Format(Minifloat(2, 1), asymmetric=True),
            "only unsigned integers have a zero point, not fp4-e2m1",
        ),
        (
            lambda: ScaleFormat("e8m0", "floor", twofold=True),
            "a scale in e8m0 cannot be rounded by 'floor' under a scale of the tensor",
        ),
        (
            lambda: Granularity("group"),
            "a group needs a size, and nothing else has one: group of 0",
        ),
    ],
)
def test_what_cannot_be_is_refused(run: Any, what: str) -> None:
    with pytest.raises(InputError) as error:
        run()
    assert error.value.what == what


def test_more_bits_lose_less() -> None:
    values = sample(64, 128)
    names = ["int2-g32", "int3-g32", "int4-g32", "int5-g32", "int6-g32", "int7-g32", "int8-g32"]
    errors = [float((named(n).quantize(values).dequantize() - values).norm()) for n in names]
    assert all(after < 0.6 * before for before, after in pairwise(errors))
