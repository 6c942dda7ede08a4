# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportPrivateUsage=false
"""Triton's interpreter, with numbers of 16 and 8 bits as devices have them.

As it comes (Triton 3.9), it cuts off what does not fit into bfloat16, loses the carry of what it
rounds to E4M3, and multiplies matrices of bfloat16 by their bits. Devices round to the nearest, as
PyTorch does, and multiply numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

_BUILDER = interpreter.InterpreterBuilder
_CONVERT, _DOT = interpreter._convert_float, _BUILDER.create_dot
# PyTorch's dtype, and the integers that its bits are seen as there and in numpy.
_ROUNDED = {
    tl.bfloat16: (torch.bfloat16, torch.int16, np.uint16),
    tl.float8e4nv: (torch.float8_e4m3fn, torch.uint8, np.uint8),
}


def _convert(data: Any, source: Any, target: Any, mode: Any) -> Any:
    if source != tl.float32 or target not in _ROUNDED:
        return _CONVERT(data, source, target, mode)
    dtype, bits, kind = _ROUNDED[target]
    rounded = torch.from_numpy(np.ascontiguousarray(data)).to(dtype)
    return rounded.view(bits).numpy().view(kind).reshape(data.shape)


def _multiply(self: Any, a: Any, b: Any, *rest: Any) -> Any:
    if a.dtype.scalar == tl.bfloat16:
        a, b = (self.cast_impl(part, tl.float32) for part in (a, b))
    return _DOT(self, a, b, *rest)


@contextmanager
def mended() -> Iterator[None]:
    """The interpreter computes as devices do, as long as this is entered."""
    with (
        patch.object(interpreter, "_convert_float", _convert),
        patch.object(_BUILDER, "create_dot", _multiply),
    ):
        yield
