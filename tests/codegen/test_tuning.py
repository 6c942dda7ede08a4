"""Fastest options are measured once, and kept by device and shape."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from regauge.codegen import Norm, Quantize, Rows, Tuner, tuning
from regauge.codegen.kernels import space
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


def test_the_fastest_is_kept(tmp_path: Path) -> None:
    clock, operands = Clock([3.0, 1.0, 2.0]), REGION.example(4, seed=0)
    found = Tuner(tmp_path / "tuned.json", clock).options(REGION, operands, limit=3)
    assert found == space(REGION, 4)[1]
    assert clock.runs == 3
    again = Tuner(tmp_path / "tuned.json", clock)
    assert again.options(REGION, operands) == found
    assert again.options(REGION, REGION.example(3, seed=1)) == found  # the same magnitude
    assert clock.runs == 3
    again.options(REGION, REGION.example(5, seed=1), limit=2)
    assert clock.runs == 5


def test_a_key_says_what_the_options_depend_on() -> None:
    keys = {
        tuning.key(region, rows, device)
        for region in (REGION, Rows(64, norm=Norm()))
        for rows in (1, 2)
        for device in ("cpu", "NVIDIA H200")
    }
    assert len(keys) == 8
    assert tuning.key(REGION, 5, "cpu") == tuning.key(REGION, 8, "cpu")


def test_what_fits_nowhere_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no options"):
        Tuner(tmp_path / "t.json", lambda _: math.inf).options(
            REGION, REGION.example(4, seed=0), limit=2
        )


def test_a_space_holds_different_options_that_cover_the_row() -> None:
    for region in (REGION, Rows(14336, gate="silu"), Rows(5120, norm=Norm())):
        found = space(region, 4096)
        assert len({tuple(sorted(options.items())) for options in found}) == len(found) > 3
        assert all(options["BLOCK"] >= region.width for options in found) or not region.whole
