"""Scales and codes as they are stored, and the formats of standards."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from regauge.ir.formats import Parameters, ScaleFormat, named, tiled, untiled

NAMES = [
    "int2", "int3-g32", "int4-g32-asym", "int4-g128", "int5-channel@1", "int6-g32-fp16", "int8",
    "int8-narrow-channel", "int8-channel", "int4-g32-fp16-asym", "int4-token", "int4-g16@0",
    "uint8", "fp8-e4m3", "fp8-e5m2-channel", "fp6-e3m2", "fp6-e2m3-token", "fp4-e2m1-g16-e8m0",
    "fp4-e3m0-g32-bf16", "fp5-e2m2-bias-0.75", "fp8-e4m3-none",
    "mxfp8-e4m3", "mxfp8-e5m2", "mxfp6-e2m3", "mxfp6-e3m2", "mxfp4", "mxint8", "nvfp4", "bfp5-b16",
    "nf4-g64", "nf3-g64-e4m3-twofold", "log2-4", "logsqrt2-4-token", "uniform2-g64", "ternary",
    "ternary-g48-fp16", "binary-channel", "phase", "phase-g32", "d4-g64", "e8-g64-fp16",
    "int4-g24-pad", "fp4-e2m1-channel-e8m0-down-twofold",
]  # fmt: skip
POSITIVE = ("uint", "log")


def sample(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 0.1


def sample_for(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    values = sample(*shape, dtype=torch.float64)
    return (values.abs() if name.startswith(POSITIVE) else values).to(dtype)


# scales


def test_powers_of_two_have_the_bytes_of_e8m0() -> None:
    codes = torch.arange(255, dtype=torch.uint8)
    theirs = codes.view(torch.float8_e8m0fnu)
    form = ScaleFormat("e8m0", "up")
    for dtype in (torch.float32, torch.float64):
        scale = theirs.to(dtype)
        assert torch.equal(form.stored(scale), scale)
        assert torch.equal(form.pack(scale).flatten(), codes)
        assert torch.equal(form.unpack(codes[:, None], dtype), scale)


@pytest.mark.parametrize("storage", ["fp32", "fp16", "bf16", "e4m3"])
def test_stored_scales_have_the_bytes_of_torch(storage: Any) -> None:
    form = ScaleFormat(storage)
    scale = form.stored(sample(50).abs() * 30)
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    theirs = scale.to(dtype.get(storage, torch.float8_e4m3fn))
    assert torch.equal(theirs.to(scale.dtype), scale)
    assert torch.equal(form.pack(scale), theirs[:, None].view(torch.uint8))
    assert torch.equal(form.unpack(form.pack(scale), torch.float32), scale)
    tiny = form.stored(torch.tensor([1e-44, 3e38]))
    assert bool((tiny > 0).all()) and bool(tiny.isfinite().all())


@pytest.mark.parametrize("rounding", ["up", "down", "floor", "ceil"])
def test_powers_of_two_are_rounded_as_they_say(rounding: Any) -> None:
    peak = torch.cat([sample(200, dtype=torch.float64).abs(), torch.exp2(torch.arange(-8.0, 9))])
    peak = torch.cat([peak, 6 * torch.exp2(torch.arange(-8.0, 9))]).double()
    reach = 6.0
    found, whole = ScaleFormat("e8m0", rounding).of_range(peak, reach)
    assert whole is None
    for p, s in zip(peak.tolist(), found.tolist(), strict=True):
        wanted = {
            "up": math.ceil(math.log2(p / reach)),
            "down": math.floor(math.log2(p / reach)),
            "floor": math.floor(math.log2(p)) - 2,
            "ceil": math.ceil(math.log2(p)) - 3,
        }
        assert s == 2.0 ** wanted[rounding]


@pytest.mark.parametrize("name", ["mxfp4", "mxfp6-e3m2", "mxfp8-e5m2", "mxint8", "bfp5-b16"])
def test_scales_of_powers_of_two_lose_nothing(name: str) -> None:
    form = named(name)
    table = form.element.table
    numbers = table[table.isfinite()]
    for exponent in (-20, 0, 9):
        values = (numbers.repeat(3) * 2.0**exponent)[: len(numbers) // 32 * 32 or 32]
        scale = torch.full_like(form.fit(values).scale, 2.0**exponent)
        assert torch.equal(form.quantize(values, Parameters(scale)).dequantize(), values)
        assert torch.equal(form.quantize(values.float(), Parameters(scale.float())).dequantize(),
                           values.float())  # fmt: skip


# standards


def mx_block(values: list[float], numbers: list[float]) -> tuple[int, list[float]]:
    """A block of the OCP microscaling formats by its text: the shared exponent and the numbers."""
    greatest = max(abs(value) for value in values)
    shared = math.floor(math.log2(greatest)) - math.floor(math.log2(max(numbers)))
    scaled = [value / 2.0**shared for value in values]
    return shared, [min(numbers, key=lambda number: abs(number - value)) for value in scaled]


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("mx")])
def test_microscaling_formats_are_those_of_the_standard(name: str) -> None:
    form = named(name)
    numbers = form.element.table[form.element.table.isfinite()].tolist()
    values = sample(4, 64, dtype=torch.float64) * torch.tensor([1e-4, 1, 30, 7e5])[:, None]
    found = form.quantize(values)
    assert found.codes.shape == (4, 2, 32)
    packed = found.pack()
    for block, scale, given in zip(
        form.cut(values).flatten(0, 1),
        packed.scale.flatten(),
        form.cut(found.dequantize()).flatten(0, 1),
        strict=True,
    ):
        shared, wanted = mx_block(block.tolist(), numbers)
        assert int(scale) == shared + 127
        assert given.tolist() == [number * 2.0**shared for number in wanted]
    assert packed.codes.shape == (4, 2, 4 * form.element.bits)
    assert packed.nbytes == 8 * (4 * form.element.bits + 1)


def test_mxfp4_bytes() -> None:
    block = [0.5, -1.0, 6.0, -6.0, 1.5, 4.0, 0.0, 3.0] * 4
    packed = named("mxfp4").quantize(torch.tensor(block) * 8).pack()
    assert packed.scale.tolist() == [[[130]]]
    assert packed.codes.tolist() == [[0xA1, 0xF7, 0x63, 0x50] * 4]


def test_nvfp4_is_two_levels_of_scales() -> None:
    values = sample(4, 64) * torch.tensor([1e-3, 1, 30, 1e4])[:, None]
    found = named("nvfp4").quantize(values)
    whole = values.abs().max() / (448 * 6)
    peak = values.reshape(4, 4, 16).abs().amax(-1, keepdim=True)
    scale = (peak / 6 / whole).to(torch.float8_e4m3fn).float().clamp(min=2.0**-9)
    torch.testing.assert_close(found.parameters.whole, whole)
    assert torch.equal(found.parameters.scale, scale)
    packed = found.pack()
    assert packed.codes.shape == (4, 4, 8)
    assert torch.equal(packed.scale, scale.to(torch.float8_e4m3fn).view(torch.uint8)[..., None])
    assert packed.whole is not None and packed.whole.dtype == torch.float32
    assert packed.nbytes == 4 * 4 * 9 + 4
    element = named("nvfp4").element
    codes = element.encode(values.reshape(4, 4, 16) / found.parameters.step)
    assert torch.equal(found.codes, codes)


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_block_floating_point_is_the_formula(bits: int) -> None:
    values = sample(8, 64, dtype=torch.float64)
    blocks = values.reshape(8, 4, 16)
    e = torch.ceil(torch.log2(blocks.abs().amax(-1, keepdim=True)))
    step = torch.exp2(e - bits + 1)
    codes = torch.clamp(torch.round(blocks / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    found = named(f"bfp{bits}-b16").quantize(values)
    assert torch.equal(found.dequantize(), (codes * step).reshape(8, 64))
    assert torch.equal(found.pack().scale.flatten(), (e.flatten() + 127).to(torch.uint8))


# storage


@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_known_before_there_are_codes(name: str) -> None:
    form, values = named(name), sample_for(name, 48, 384)
    assert form.nbytes(values.shape) == form.quantize(values).pack().nbytes


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_packed_comes_back(name: str, dtype: torch.dtype) -> None:
    form = named(name)
    values = sample_for(name, 48, 384, dtype=dtype)
    found = form.quantize(values)
    back = found.pack().unpack()
    assert back.format == form and back.dtype == dtype
    assert torch.equal(back.codes, found.codes)
    assert torch.equal(back.parameters.scale, found.parameters.scale)
    for one, other in (
        (back.parameters.zero, found.parameters.zero),
        (back.parameters.whole, found.parameters.whole),
    ):
        assert (one is None) == (other is None)
        assert one is None or other is None or torch.equal(one, other)
    assert torch.equal(back.dequantize(), found.dequantize())
    assert back.dequantize().dtype == dtype and back.dequantize().shape == values.shape


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("int4-g128-fp16", 4 + 16 / 128),
        ("int4-g32-fp16-asym", 4 + 20 / 32),
        ("int3-g64-bf16", 3 + 16 / 64),
        ("mxfp4", 4 + 8 / 32),
        ("mxfp6", 6 + 8 / 32),
        ("nvfp4", 4 + 8 / 16 + 32 / (40 * 384)),
        ("ternary-channel", 8 / 5 + 32 / 384),
        ("e8-g128-fp16", 1 + 16 / 128),
        ("phase-channel", 1 + 64 / 384),
        ("bfp5-b16", 5 + 8 / 16),
    ],
)
def test_bits_for_each_number_are_all_that_is_stored(name: str, bits: float) -> None:
    packed = named(name).quantize(sample(40, 384)).pack()
    assert packed.bits == pytest.approx(bits, abs=1e-3 if "ternary" in name else 1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(128, 4), (300, 10), (1, 1), (32, 8)])
def test_scales_for_tensor_cores_lie_where_they_are_read(rows: int, columns: int) -> None:
    scales = torch.randint(1, 256, (rows, columns), dtype=torch.uint8)
    data = tiled(scales)
    across = -(-columns // 4)
    assert data.shape == (512 * -(-rows // 128) * across,)
    for r in range(0, rows, 7):
        for c in range(columns):
            tile = r // 128 * across + c // 4
            assert data[512 * tile + 16 * (r % 32) + 4 * (r // 32 % 4) + c % 4] == scales[r, c]
    assert int((data != 0).sum()) == rows * columns
    assert torch.equal(untiled(data, rows, columns), scales)


def test_packed_scales_of_a_matrix_are_what_tiles_are_made_of() -> None:
    packed = named("nvfp4").quantize(sample(40, 96)).pack()
    scales = packed.scale.flatten(1)
    assert scales.shape == (40, 6)
    assert torch.equal(untiled(tiled(scales), 40, 6), scales)
