"""Codes in bytes, against the same done with Python's integers, and as ONNX has it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch

from regauge.ir import InputError
from regauge.ir.formats import Integer, named, pack, unpack
from regauge.ir.formats.packing import packed_size


def codes_of(levels: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(levels)
    return torch.randint(levels, shape, generator=generator, dtype=torch.uint8)


def as_python_does(codes: list[int], levels: int) -> list[int]:
    if levels == 3:
        parts = [codes[i : i + 5] for i in range(0, len(codes), 5)]
        return [sum(code * 3**i for i, code in enumerate(part)) for part in parts]
    bits = (levels - 1).bit_length()
    whole = sum(code << bits * i for i, code in enumerate(codes))
    return list(whole.to_bytes(-(-len(codes) * bits // 8), "little"))


@pytest.mark.parametrize("levels", [2, 3, 4, 8, 16, 32, 64, 128, 256, 255, 15])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 5, 7, 8, 9, 13, 64, 101])
def test_codes_come_back_bit_for_bit(levels: int, length: int) -> None:
    codes = codes_of(levels, length)
    data = pack(codes, levels)
    assert data.dtype == torch.uint8
    assert data.tolist() == as_python_does(codes.tolist(), levels)
    assert data.numel() == packed_size(length, levels)
    assert torch.equal(unpack(data, levels, (length,)), codes)


@pytest.mark.parametrize("levels", [3, 5, 6, 16, 64])
@pytest.mark.parametrize("shape", [(), (3, 5), (2, 1, 7), (4, 10), (2, 3, 8), (0, 4)])
def test_any_shape_comes_back(levels: int, shape: tuple[int, ...]) -> None:
    codes = codes_of(levels, *shape)
    data = pack(codes, levels)
    assert torch.equal(data.flatten(), pack(codes.flatten(), levels).flatten())
    assert torch.equal(unpack(data, levels, shape), codes)


def test_rows_of_whole_bytes_stay_rows() -> None:
    assert pack(codes_of(16, 3, 4, 32), 16).shape == (3, 4, 16)
    assert pack(codes_of(64, 3, 4), 64).shape == (3, 3)
    assert pack(codes_of(3, 3, 10), 3).shape == (3, 2)
    assert pack(codes_of(64, 3, 5), 64).shape == (12,)  # 90 bits


def test_numbers_of_codes_that_are_no_power_of_two_share_bytes() -> None:
    assert [packed_size(30, levels) for levels in (2, 3, 4, 5, 6, 7, 8)] == [
        4,
        6,
        8,
        10,
        10,
        12,
        12,
    ]


@pytest.mark.parametrize("shape", [(4, 6), (3, 5)])
def test_four_bits_are_those_of_onnx(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(-8, 8, shape)
    theirs = onnx.numpy_helper.from_array(values.astype(ml_dtypes.int4)).raw_data
    codes = Integer(4).encode(torch.from_numpy(values).float())
    assert bytes(pack(codes, 16).flatten().tolist()) == theirs


def test_what_is_no_code_is_refused() -> None:
    with pytest.raises(InputError, match="a code of 16 is not one of 16"):
        pack(torch.tensor([3, 16], dtype=torch.uint8), 16)
    with pytest.raises(InputError, match="5 codes of 16 are 3 bytes, not 4"):
        unpack(torch.zeros(4, dtype=torch.uint8), 16, (5,))


def test_a_ternary_number_takes_eight_fifths_of_a_bit() -> None:
    packed = named("ternary").quantize(torch.randn(100, 50)).pack()
    assert packed.nbytes == 1000 + 4
