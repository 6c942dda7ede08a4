"""From a region to a kernel that runs: which family has it, with which options.

Triton is imported when the first kernel is asked for, and by nothing before.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from ..ir.errors import InputError
from .bitplanes import Bitplanes
from .description import E4M3, Region, Tensors
from .grouped import Grouped
from .matmul import Matmul
from .rows import Rows
from .sparse import BlockSparse, SemiSparse
from .ternary import Ternary

if TYPE_CHECKING:
    from .launch import Assembly, Launch, Options

FAMILIES: dict[type, str] = {
    Rows: "rows",
    Matmul: "gemm",
    Grouped: "grouped",
    Bitplanes: "bitplanes",
    SemiSparse: "sparse",
    BlockSparse: "sparse",
    Ternary: "ternary",
}


def family(region: Region) -> Any:
    """The module of a region's kernel, with ``launch`` and ``space``."""
    return import_module(f"{__package__}.triton.{FAMILIES[type(region)]}")


def empty(region: Region, rows: int, device: torch.device | str) -> dict[str, torch.Tensor]:
    """Tensors for the results."""
    return {
        name: torch.empty(value.shape, dtype=value.dtype, device=device)
        for name, value in region.results(rows).items()
    }


def space(region: Region, rows: int, processors: int = 132, capability: int = 90) -> list[Options]:
    """The options that are worth trying, the safest first; that suits every device.

    Args:
        region: What to compute.
        rows: Of how many rows.
        processors: Of the device.
        capability: Of the device.
    """
    return family(region).space(region, rows, processors, capability)


def prepare(
    region: Region, operands: Tensors, options: Options | None = None
) -> tuple[Launch, dict[str, torch.Tensor]]:
    """A launch, and the tensors that it fills.

    Args:
        region: What to compute.
        operands: Of what.
        options: A member of its space; the first where none is given.
    """
    rows, device = operands["input"].shape[0], operands["input"].device
    expected = region.operands(rows)
    for name, value in expected.items():
        if name not in operands or tuple(operands[name].shape) != value.shape:
            found = tuple(operands[name].shape) if name in operands else "nothing"
            raise InputError(f"operand {name} has the shape {value.shape}, not {found}")
        if operands[name].dtype != value.dtype:
            raise InputError(f"operand {name} is of {value.dtype}, not {operands[name].dtype}")
    results = empty(region, rows, device)
    options = space(region, rows)[0] if options is None else options
    return family(region).launch(region, operands, results, options), results


def run(region: Region, operands: Tensors, options: Options | None = None) -> Tensors:
    """What a region gives, by its kernel; on the CPU by Triton's interpreter, which
    ``TRITON_INTERPRET=1`` asks for before triton is imported."""
    launch, results = prepare(region, operands, options)
    launch.run()
    return results


def assemble(
    region: Region, rows: int, capability: int, options: Options | None = None
) -> Assembly:
    """The kernel of a region, compiled for a device that need not be there.

    Args:
        region: What to compute.
        rows: As an example: how far addresses are aligned follows from it.
        capability: Of the device: 80, 90.
        options: A member of its space; the first where none is given.
    """
    used = {value.dtype for value in (region.operands(rows) | region.results(rows)).values()}
    if E4M3 in used and capability < 89:
        raise InputError(f"a device of capability {capability} has no numbers in E4M3")
    operands = {
        name: torch.empty(value.shape, dtype=value.dtype, device="meta")
        for name, value in region.operands(rows).items()
    }
    return prepare(region, operands, options)[0].assemble(capability)
