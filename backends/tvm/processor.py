"""The processor at hand, as TVM knows it."""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module
from typing import Any

import torch


def host() -> Any:
    """This processor as TVM's target."""
    tvm: Any = import_module("tvm")
    cpu = tvm.target.codegen.llvm_get_system_cpu()
    return tvm.target.Target({"kind": "llvm", "mcpu": cpu, "num-cores": torch.get_num_threads()})


def has_dots(target: Any = None) -> bool:
    """Whether a processor, or the target in force, adds four products of codes in one step."""
    codegen: Any = import_module("tvm.target.codegen")
    return bool(codegen.target_has_features("avx512vnni", target))


# TVM's own has operands of 32 bits, which LLVM takes no more.
_DOT = """
@T.prim_func(s_tir=True)
def dot(
    A: T.Buffer((4,), "uint8", offset_factor=1),
    B: T.Buffer((16, 4), "int8", offset_factor=1),
    C: T.Buffer((16,), "int32", offset_factor=1),
) -> None:
    with T.sblock("root"):
        T.reads(C[0:16], A[0:4], B[0:16, 0:4])
        T.writes(C[0:16])
        C[T.ramp(T.int32(0), 1, 16)] = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.512"),
            C.vload([0], dtype="int32x16"),
            T.reinterpret(
                T.broadcast(T.reinterpret(A.vload([0], "uint8x4"), dtype="int32"), 16),
                dtype="uint8x64",
            ),
            B.vload([0, 0], dtype="int8x64"),
            dtype="int32x16",
        )
"""
DOT = "dot_16x4_vnni"  # as TVM calls it, whose own searches use it too


def x86_instructions() -> None:
    """Let schedules use the instructions of this processor, and no others.

    TVM would import those of all GPUs as well, which takes a minute: it parses each by looking
    through all of Python's modules.
    """
    name = "tvm.s_tir.tensor_intrin"
    if name not in sys.modules:
        spec = importlib.util.find_spec(name)
        assert spec is not None, "it is a part of TVM"
        sys.modules[name] = importlib.util.module_from_spec(spec)
        intrinsics: Any = import_module("tvm.s_tir").TensorIntrin
        script: Any = import_module("tvm.script")
        x86: Any = import_module(f"{name}.x86")
        description = x86.dot_product_16x4_u8i8i32_desc
        intrinsics.register(DOT, description, script.from_source(_DOT), override=True)
