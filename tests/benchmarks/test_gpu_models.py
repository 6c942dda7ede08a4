"""The benchmark of whole models runs where no GPU is, on a tiny one."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")


def test_a_dry_run_does_what_a_run_does(capsys: pytest.CaptureFixture[str]) -> None:
    from gpu_models import OURS, markdown, run

    figures = list(run(["torch", "ours", "onnxruntime"], [8], 1, dry=True))
    ours = [found for found in figures if found.name.startswith("Regauge")]
    assert len(ours) == len(OURS)
    # The graph rounds to bfloat16 after each op, and kernels at their end: so values at the border
    # of two codes get the other one, which must cost less than having codes does.
    assert all(found.faithful < found.error < 0.2 for found in ours), ours
    assert "ONNX Runtime, CPUExecutionProvider" in [found.name for found in figures]
    assert "| Regauge, fp8 | 8 |" in markdown("A device", 1, figures)
    assert "kernels: " in capsys.readouterr().out


def test_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    from gpu_models import main

    with pytest.raises(SystemExit):
        main(["theirs"])
    assert "there is no way theirs" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no GPU here"):
        main([])
