"""Triton is imported for the first kernel, and not before."""

from __future__ import annotations

import subprocess
import sys

ALONE = """
import sys
import torch
before = "triton" in sys.modules
import regauge
import regauge.codegen
assert before or "triton" not in sys.modules
"""


def test_triton_is_not_imported_unasked() -> None:
    ran = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
