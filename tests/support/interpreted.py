# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportPrivateUsage=false
"""Triton's interpreter, which tests/conftest.py asks for in the place of a GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def mended() -> Generator[None]:
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

    before = interpreter._convert_float
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
