"""TVM, for this processor or as CUDA."""

from __future__ import annotations

from ...ir.recurrence import NAMES as RECURRENCES
from ..base import Target
from ..blocks import BLOCKS

TARGET = Target(
    name="tvm",
    module="tvm.runner",
    requires=("tvm", "safetensors"),
    install="regauge[tvm]",
    about="as code of this processor, by LLVM, or as CUDA",
    floats=("f32",),
    weights=BLOCKS,
    lacks=frozenset(RECURRENCES),
)
