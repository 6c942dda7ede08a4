"""Weights in a file, with and without their zeros."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import regauge as rg
from regauge.backends import weight_file
from regauge.passes import Sparsify

TYPES = [torch.float32, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.int64]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (5, 13), (3, 4, 5)], ids=str)
@pytest.mark.parametrize("zeros", [0.0, 0.5, 1.0])
def test_gives_back_what_was_written(
    dtype: torch.dtype, shape: tuple[int, ...], zeros: float, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    value = (torch.randn(shape, generator=generator) * 50).to(dtype)
    value = torch.where(torch.rand(shape, generator=generator) < zeros, 0, value)
    if dtype.is_floating_point and value.numel() > 3:
        value.view(-1)[:3] = torch.tensor([-0.0, float("nan"), float("-inf")], dtype=dtype)
    weight_file.write({"w": value, "other": torch.ones(3)}, tmp_path / "f")
    found = weight_file.read(tmp_path / "f")
    assert sorted(found) == ["other", "w"]
    assert found["w"].dtype == dtype and found["w"].shape == value.shape
    assert torch.equal(*(part.reshape(-1).view(torch.uint8) for part in (found["w"], value)))


def test_dtypes_that_few_ops_know(tmp_path: Path) -> None:
    value = torch.zeros(5, 13)
    value[1, ::3] = 3.0
    for dtype in (torch.uint16, torch.float8_e4m3fn, torch.complex64):
        weight_file.write({"w": value.to(dtype)}, tmp_path / "f")
        found = weight_file.read(tmp_path / "f")["w"]
        assert len(load_file(tmp_path / "f")["w"]) == 1 + 5  # zero, and those that are not
        assert found.dtype == dtype and torch.equal(found.to(torch.complex64), value + 0j)


def test_zeros_are_left_out_only_where_that_is_less(tmp_path: Path) -> None:
    value = torch.ones(64, 64)
    dense = {"w": value.clone()}
    dense["w"][:2] = 0  # 1/32: the bits of the others are as many
    weight_file.write(dense, tmp_path / "dense")
    torch.testing.assert_close(load_file(tmp_path / "dense"), dense)
    value[:, 32:] = 0
    weight_file.write({"w": value}, tmp_path / "sparse")
    stored = load_file(tmp_path / "sparse")
    assert {name: len(part) for name, part in stored.items()} == {"w": 1 + 2048, "w.places": 512}


def test_a_sparse_artifact_is_smaller_and_gives_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64))
    model.eval()
    x = torch.randn(256, 64)
    passes = [Sparsify(pattern="2:4", score="wanda")]
    sizes: list[int] = []
    for name, steps in {"dense": [], "sparse": passes}.items():
        made = rg.compile(model, (x,), passes=steps, calibration=[x], target="torch")
        told = made.report.bytes_after
        made.save(tmp_path / name)
        sizes.append((tmp_path / name / "weights.safetensors").stat().st_size)
        assert sizes[-1] - 1000 < told <= sizes[-1]  # the header has the rest
        torch.testing.assert_close(rg.load(tmp_path / name)(x), made(x), rtol=0, atol=0)
    assert sizes[1] < 0.58 * sizes[0]  # a half and 1/32, biases and the header
