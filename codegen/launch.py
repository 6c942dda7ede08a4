# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
"""One launch of a kernel: to run, or to be compiled for a device that is not there."""

from __future__ import annotations

import re
import subprocess
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from .triton.interpreter import mended

Options: TypeAlias = dict[str, int]

POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.int16: "*i16",
    torch.int32: "*i32",
}
COMPILER = ("num_warps", "num_stages", "num_ctas", "maxnreg")


@dataclass(frozen=True)
class Assembly:
    """What the compiler made of a kernel.

    Args:
        ptx: Text.
        cubin: Machine code.
        registers: Of a thread.
        spilled: Bytes of a thread's registers that went to memory, its stack among them.
        shared: Bytes of a block's shared memory.
    """

    ptx: str
    cubin: bytes
    registers: int
    spilled: int
    shared: int


@dataclass(frozen=True)
class Launch:
    """A kernel, its arguments, and how it is laid out.

    Args:
        kernel: A jit function.
        arguments: Tensors, integers, and None where a pointer is not there.
        constants: What the kernel is compiled for.
        grid: Programs on each axis.
        options: A member of the kernel's space; the compiler gets its part.
    """

    kernel: Any
    arguments: dict[str, Any]
    constants: dict[str, Any]
    grid: tuple[int, ...]
    options: Options

    def run(self) -> None:
        """On the device of the tensors; on the CPU by Triton's interpreter."""
        with mended() if knobs.runtime.interpret else nullcontext():
            self.kernel[self.grid](**self.arguments, **self.constants, **self._compiler())

    def warm(self) -> None:
        """Compile for the device of the tensors, and do not run."""
        self.kernel.warmup(grid=self.grid, **self.arguments, **self.constants, **self._compiler())

    def assemble(self, capability: int) -> Assembly:
        """Compile for a CUDA device of a capability, such as 90, which need not be there.

        Tensors may be on the device ``meta``.
        """
        types = {name: self._type(value) for name, value in self.arguments.items()}
        constants = {name: self.arguments[name] for name, t in types.items() if t == "constexpr"}
        types = {name: types.get(name, "constexpr") for name in self.kernel.arg_names}
        aligned = {
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(self.kernel.arg_names)
            if types[name].startswith("*")
            or (types[name] == "i32" and not self.arguments[name] % 16)
        }
        source = ASTSource(self.kernel, types, constants | self.constants, aligned)
        target = GPUTarget("cuda", capability, 32)
        found = triton.compile(source, target=target, options=self._compiler())
        registers, spilled = _usage(found.asm["cubin"])
        return Assembly(
            found.asm["ptx"], found.asm["cubin"], registers, spilled, found.metadata.shared
        )

    def _compiler(self) -> dict[str, Any]:
        given = {name: self.options[name] for name in COMPILER if name in self.options}
        return given | {"enable_fp_fusion": True}

    def _type(self, value: Any) -> str:
        """As Triton specializes an argument."""
        if isinstance(value, TensorDescriptor):
            return f"tensordesc<{POINTERS[value.base.dtype][1:]}{value.block_shape}>"
        if value is None or (isinstance(value, int) and value == 1):
            return "constexpr"
        return POINTERS[value.dtype] if isinstance(value, torch.Tensor) else "i32"


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes of the stack and local memory, as the toolkit reads them."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", str(file)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {name: int(size) for name, size in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return found["REG"], found["STACK"] + found["LOCAL"]
