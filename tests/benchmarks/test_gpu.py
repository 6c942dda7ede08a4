"""The benchmark of kernels: its entries have kernels, and its table says what was reached."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from gpu import CHECKED, GROUPS, Figures, dry, main, markdown

from regauge.codegen.kernels import space

pytest.importorskip("triton")


@pytest.mark.parametrize("group", GROUPS)
def test_every_entry_has_a_kernel(group: str) -> None:
    entries = GROUPS[group]()
    assert len({(entry.name, entry.rows) for entry in entries}) == len(entries)
    for entry in entries:
        assert space(entry.region, entry.rows)
        assert set(entry.goals) <= set(entry.peers)
        assert entry.region.moved(entry.rows) > 0


def test_the_table_says_what_was_reached() -> None:
    good = Figures("good", 8, 1e-5, {}, 1.0, 10.0, 1.0, {"copy": 0.95}, {"copy": 0.9})
    slow = Figures("slow", 8, 1e-5, {}, 1.0, 10.0, 1.0, {"copy": 0.85}, {"copy": 0.9})
    wrong = Figures("wrong", 8, 0.5, {}, 1.0, 10.0, 1.0, {"copy": 0.95}, {"copy": 0.9})
    text = markdown("A device.", {"rows": [good, slow, wrong]})
    assert [line.split(" | ")[-1] for line in text.splitlines()[-3:]] == ["✓ |", "✗ |", "✗ |"]
    assert "copy 0.9500 ms, 0.95 x (goal 0.90)" in text


@pytest.mark.parametrize("group", GROUPS)
def test_a_dry_run_does_what_a_run_does(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    (figures,) = dry([group]).values()
    assert [found.name for found in figures] == [entry.name for entry in GROUPS[group]()]
    assert all(found.excess < CHECKED for found in figures)
    assert "a peer does not run" not in capsys.readouterr().out


def test_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["gems", "--dry"])
    assert "there is no group gems" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no GPU here"):
        main([])


@pytest.mark.parametrize(
    "command", [["-m", "benchmarks.gpu"], ["benchmarks/gpu_models.py"]], ids=["kernels", "models"]
)
def test_it_runs_as_it_is_called(command: list[str]) -> None:
    """Without the paths that tests have."""
    here = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, *command, "--help"]
    root = Path(__file__).parents[2]
    done = subprocess.run(words, cwd=root, env=here, capture_output=True, text=True)
    assert done.returncode == 0 and "--dry" in done.stdout, done.stderr
