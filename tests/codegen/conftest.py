# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Kernels run in Triton's interpreter here, and are compiled in a process without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import kernel_cases
import pytest

SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes that a block can have
ASSEMBLE = """
import json
import re
import kernel_cases
from regauge.codegen import assemble
for name, case in kernel_cases.{cases}.items():
    for capability in case.capabilities:
        found = assemble(case.region, case.rows, capability, case.options)
        words = case.words.get(capability, ())
        words = [word for word in words if not re.search(word, found.ptx)]
        print(json.dumps([name, capability, found.registers, found.spilled, found.shared, words]))
"""


@pytest.fixture(scope="session")
def assembled() -> Any:
    """``assembled("ROWS")``: the cases of that name are compiled, each for its capabilities, within
    the bounds of a device and their own, and with the instructions that they name."""

    def assemble(cases: str) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
        command = [sys.executable, "-c", ASSEMBLE.format(cases=cases)]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert ran.returncode == 0, ran.stderr
        lines = [json.loads(line) for line in ran.stdout.splitlines()]
        expected = getattr(kernel_cases, cases)
        assert len(lines) == sum(len(case.capabilities) for case in expected.values()) > 0
        for name, capability, registers, spilled, shared, missing in lines:
            assert (spilled, missing) == (0, []), (name, capability)
            assert registers <= expected[name].registers, (name, capability)
            assert shared <= SHARED[capability], (name, capability)

    return assemble
