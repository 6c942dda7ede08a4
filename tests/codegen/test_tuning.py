"""Fastest options are measured once, and kept by device and shape."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from regauge.codegen import Norm, Quantize, Rows, Tuner, tuning
from regauge.codegen.kernels import space
from regauge.codegen.tuning import Device
from regauge.ir.errors import InputError

pytest.importorskip("triton")

REGION = Rows(64, torch.float32, norm=Norm(), quantize=Quantize())


class Clock:
    """Runs what it is given, and says that each was so fast."""

    def __init__(self, times: list[float]) -> None:
        self.times, self.runs = times, 0

    def __call__(self, run: Any) -> float:
        run()
        self.runs += 1
        return self.times[(self.runs - 1) % len(self.times)]


HERE = Device("NVIDIA H200", 90, 132, "3.9.0")


def test_the_fastest_is_kept(tmp_path: Path) -> None:
    clock, operands = Clock([3.0, 1.0, 2.0]), REGION.example(4, seed=0)
    found = Tuner(tmp_path / "tuned.json", HERE, clock).options(REGION, operands, limit=3)
    assert found == space(REGION, 4)[1]
    assert clock.runs == 3
    again = Tuner(tmp_path / "tuned.json", HERE, clock)
    assert again.notes == []
    assert again.options(REGION, operands) == found
    assert again.options(REGION, REGION.example(3, seed=1)) == found  # the same magnitude
    assert clock.runs == 3
    again.options(REGION, REGION.example(5, seed=1), limit=2)
    assert clock.runs == 5


@pytest.mark.parametrize(
    "other", [Device("NVIDIA A100", 80, 108, "3.9.0"), Device("NVIDIA H200", 90, 132, "3.4.0")]
)
def test_what_another_device_or_compiler_was_tuned_for_is_measured_anew(
    other: Device, tmp_path: Path
) -> None:
    path, operands = tmp_path / "tuned.json", REGION.example(4, seed=0)
    Tuner(path, other, Clock([2.0, 1.0])).options(REGION, operands, limit=2)
    clock = Clock([1.0, 2.0])
    tuner = Tuner(path, HERE, clock)
    assert tuner.notes == [
        f"{path}: kernels were tuned on {other.name} with triton {other.triton}, and this is "
        "NVIDIA H200 with triton 3.9.0: they are measured anew"
    ]
    assert tuner.options(REGION, operands, limit=2) == space(REGION, 4)[0]
    assert clock.runs == 2
    assert Tuner(path, HERE).notes == []


def test_options_that_are_no_more_are_measured_anew(tmp_path: Path) -> None:
    path, operands = tmp_path / "tuned.json", REGION.example(4, seed=0)
    Tuner(path, HERE, Clock([1.0])).options(REGION, operands, limit=1)
    path.write_text(path.read_text().replace('"TILE": 1', '"TILE": 3'))
    tuner = Tuner(path, HERE, Clock([1.0]))
    assert tuner.options(REGION, operands, limit=1) == space(REGION, 4)[0]
    assert "has other options now" in tuner.notes[0]


@pytest.mark.parametrize("text", ["{", "[]", '{"device": 3}'])
def test_a_damaged_file_is_written_anew(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    path.write_text(text)
    tuner = Tuner(path, HERE, Clock([1.0]))
    assert tuner.notes == [f"{path} is no file of tuned kernels: they are measured anew"]
    tuner.options(REGION, REGION.example(4, seed=0), limit=1)
    assert Tuner(path, HERE).found == tuner.found


def test_what_cannot_be_kept_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tuner = Tuner(tmp_path / "file" / "tuned.json", HERE, Clock([1.0]))
    with pytest.warns(RuntimeWarning, match="tuned kernels are not kept"):
        tuner.options(REGION, REGION.example(4, seed=0), limit=1)


def test_an_artifact_keeps_what_its_kernels_need(tmp_path: Path) -> None:
    tuner, other = Tuner(tmp_path / "a", HERE, Clock([1.0])), Rows(32, torch.float32, norm=Norm())
    for region in (REGION, other):
        tuner.options(region, region.example(4, seed=0), limit=1)
    kept = tuner.kept({repr(REGION): REGION})
    fresh = Tuner(tmp_path / "b", HERE)
    fresh.adopt(kept, "an artifact")
    assert list(fresh.found) == [tuning.key(REGION, 4)]


def test_a_key_says_what_the_options_depend_on() -> None:
    keys = {
        tuning.key(region, rows) for region in (REGION, Rows(64, norm=Norm())) for rows in (1, 2)
    }
    assert len(keys) == 4
    assert tuning.key(REGION, 5) == tuning.key(REGION, 8)


def test_what_fits_nowhere_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no options"):
        Tuner(tmp_path / "t.json", HERE, lambda _: math.inf).options(
            REGION, REGION.example(4, seed=0), limit=2
        )


def test_a_space_holds_different_options_that_cover_the_row() -> None:
    for region in (REGION, Rows(14336, gate="silu"), Rows(5120, norm=Norm())):
        found = space(region, 4096)
        assert len({tuple(sorted(options.items())) for options in found}) == len(found) > 3
        assert all(options["BLOCK"] >= region.width for options in found) or not region.whole
