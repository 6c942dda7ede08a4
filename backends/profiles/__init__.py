"""The profiles of targets, a file each, and where they are found by name."""

from __future__ import annotations

from ...ir import TargetError
from ..base import Target
from . import (
    c,
    compressed_tensors,
    ethos_u,
    litert,
    onnxruntime,
    openvino,
    qnn,
    torch,
    tvm,
    xnnpack,
)

TARGETS: dict[str, Target] = {
    module.TARGET.name: module.TARGET
    for module in (
        onnxruntime,
        openvino,
        qnn,
        xnnpack,
        ethos_u,
        litert,
        tvm,
        torch,
        compressed_tensors,
        c,
    )
}


def target(name: str) -> Target:
    """The target of this name; raises ``TargetError`` that lists the known."""
    if name not in TARGETS:
        raise TargetError(
            f"there is no target {name!r}",
            do=f"choose one of: {', '.join(TARGETS)}",
        )
    return TARGETS[name]
