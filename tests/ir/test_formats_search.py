"""Scales that are searched: never worse than the range, as good as theory says."""

from __future__ import annotations

import pytest
import torch

from regauge.ir.formats import named, searched, squared_error

NAMES = [
    "int2-g64", "int3-channel", "int4-g32", "int4-g32-asym", "int4-channel-fp16-asym",
    "fp4-e2m1-g32", "fp8-e4m3", "mxfp4", "nvfp4", "nf4-g64", "bfp4-b16", "ternary",
    "ternary-g64-e8m0", "uniform2", "binary-channel", "phase", "e8-g64",
]  # fmt: skip


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
def test_no_block_is_worse_than_by_its_range(name: str) -> None:
    form, values = named(name), normal(16, 128)
    values[3] = 0
    values[:, 5] *= 8
    importance = torch.rand(128, generator=torch.Generator().manual_seed(1))
    before, after = form.fit(values), searched(form, values, importance)
    assert squared_error(form, values, after, importance) <= squared_error(
        form, values, before, importance
    )
    found = form.quantize(values, after)
    assert torch.equal(found.parameters.scale, after.scale)  # as stored already
    back = found.pack().unpack().dequantize()
    error = ((back - values).square() * importance).sum()
    assert float(error) == pytest.approx(squared_error(form, values, after, importance), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("binary", 0.3634),
        ("ternary", 0.1902),
        ("uniform2", 0.1188),
        ("uniform3", 0.0374),
        ("uniform4", 0.0115),
        ("phase", 0.3634),
    ],
)
def test_a_normal_distribution_loses_what_the_best_uniform_quantizer_does(
    name: str, error: float
) -> None:
    """Max, Quantizing for minimum distortion, 1960, table II; 1 - 2 / pi for signs and phases."""
    form, values = named(name), normal(300, 200)
    found = squared_error(form, values, searched(form, values)) / float(values.square().sum())
    assert found == pytest.approx(error, rel=0.02)


def test_each_block_is_searched_by_itself() -> None:
    form, values = named("int3-channel"), normal(6, 64)
    together = searched(form, values).scale
    for row in range(6):
        alone = searched(form, values[row : row + 1]).scale
        # sums are in another order where there are more rows
        torch.testing.assert_close(alone, together[row : row + 1], rtol=1e-6, atol=0)


def test_rounding_is_decoding_the_nearest_code() -> None:
    values = normal(64, 64) * 3
    for name in [*NAMES, "int4-g16@0", "mxint8", "log2-4-g32"]:
        form, tensor = named(name), values.abs() if name.startswith("log") else values
        blocks, found = form.blocks(tensor), form.fit(tensor)
        wanted = form.values(form.nearest(blocks, found), found)
        assert torch.equal(form.rounded(blocks, found), wanted), name


@pytest.mark.parametrize("name", ["int4-g32", "int4-g32-asym", "int2-g64", "nf4-g64", "nvfp4"])
def test_factors_that_are_left_out_could_not_win(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    form, values = named(name), normal(64, 128)
    values[:, 7] *= 30
    importance = torch.rand(128, generator=torch.Generator().manual_seed(1)) ** 4
    fast = searched(form, values, importance)
    monkeypatch.setattr("regauge.ir.formats.search._Search.hopeless", lambda *_: False)
    every = searched(form, values, importance)
    assert torch.equal(fast.scale, every.scale)


def test_importance_moves_the_scale_to_what_matters() -> None:
    form, values = named("int2-channel"), normal(1, 256)
    values[0, 0] = 7
    importance = torch.ones(256)
    plain = searched(form, values, importance)
    importance[0] = 1e4
    weighted = searched(form, values, importance)
    assert float(weighted.scale) > 1.5 * float(plain.scale)
    kept = form.quantize(values, weighted).dequantize()[0, 0]
    assert abs(float(kept) - 7) < abs(float(form.quantize(values, plain).dequantize()[0, 0]) - 20)


def test_both_ends_of_a_range_are_searched() -> None:
    form = named("int4-asym")
    values = torch.cat([normal(4000), torch.tensor([-8.0])])
    found, before = searched(form, values), form.fit(values)
    assert squared_error(form, values, found) < 0.75 * squared_error(form, values, before)
    assert found.zero is not None and before.zero is not None
    assert float(found.zero) == round(float(found.zero))
    low, high = -found.scale * found.zero, found.scale * (15 - found.zero)
    assert -4 < float(low) < -2 and 2 < float(high) < 4
