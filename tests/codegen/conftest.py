# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Kernels run in Triton's interpreter here, and are compiled in a process without it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import kernel_cases
import pytest


@pytest.fixture(autouse=True, scope="session")
def mended_interpreter() -> Any:
    """Triton's interpreter cuts off what does not fit into bfloat16, loses the carry of what it
    rounds to E4M3, and multiplies matrices of bfloat16 by their bits; devices round to the nearest,
    as PyTorch does, and multiply numbers."""
    if importlib.util.find_spec("triton") is None:
        yield
        return
    import numpy as np
    import torch
    import triton.language as tl
    from triton.runtime import interpreter

    before = interpreter._convert_float  # pyright: ignore[reportPrivateUsage]
    targets = {tl.bfloat16: torch.bfloat16, tl.float8e4nv: torch.float8_e4m3fn}
    views = {tl.bfloat16: (torch.int16, np.uint16), tl.float8e4nv: (torch.uint8, np.uint8)}

    def convert(data: Any, source: Any, target: Any, mode: Any) -> Any:
        if source != tl.float32 or target not in targets:
            return before(data, source, target, mode)
        bits, kind = views[target]
        rounded = torch.from_numpy(np.ascontiguousarray(data)).to(targets[target])
        return rounded.view(bits).numpy().view(kind).reshape(data.shape)

    builder, dot = interpreter.InterpreterBuilder, interpreter.InterpreterBuilder.create_dot

    def multiply(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            a, b = (self.cast_impl(part, tl.float32) for part in (a, b))
        return dot(self, a, b, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "create_dot", multiply)
        patch.setattr(interpreter, "_convert_float", convert)
        yield


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
