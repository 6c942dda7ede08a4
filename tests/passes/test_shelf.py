from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import pytest
import torch

from regauge.passes.shelf import Mapped, Shelf

KIB = torch.arange(256, dtype=torch.float32)  # 1024 bytes


def test_what_is_beyond_the_limit_comes_back_from_files() -> None:
    shelf = Shelf(limit=2048)
    series = shelf.series()
    for i in range(5):
        series.append((KIB + i, i))
    assert shelf.held == 2048
    assert len(series) == 5
    for i, (tensor, number) in enumerate(series):
        assert torch.equal(tensor, KIB + i) and number == i
    assert torch.equal(series[-1][0], KIB + 4)
    assert [number for _, number in series[1:3]] == [1, 2]


def test_nothing_is_kept_that_nobody_refers_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shelf = Shelf(limit=1024)
    series = shelf.series()
    series.append(KIB)
    series.append(KIB)
    assert len(list(tmp_path.glob("*/*.pt"))) == 1
    del series
    gc.collect()
    assert shelf.held == 0
    assert not list(tmp_path.glob("*/*.pt"))
    again = shelf.series()
    again.append(KIB)
    assert shelf.held == 1024
    del shelf, again
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_part_of_a_tensor_is_written_without_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    series = Shelf(limit=0).series()
    series.append(torch.zeros(1000, 1000)[:4])
    (file,) = tmp_path.glob("*/*.pt")
    assert file.stat().st_size < 30_000
    assert series[0].shape == (4, 1000)


def test_functions_of_an_index_are_computed_when_they_are_read() -> None:
    asked: list[int] = []

    def square(i: int) -> int:
        asked.append(i)
        return i * i

    squares = Mapped(square, 4)
    assert not asked
    assert list(squares) == [0, 1, 4, 9]
    assert squares[-1] == 9 and squares[1:3] == [1, 4]
    with pytest.raises(IndexError):
        squares[4]
