"""Kernels as one op of PyTorch, ``regauge::kernel``, which ``torch.compile`` takes as it is.

It is told of a region by its text, and how many options of its space it may try. Rows may have
several axes in front, which come back in the results.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TypeVar

import torch

from .description import Region, Tensors
from .kernels import empty, prepare
from .rows import Rows
from .tuning import chosen

NAME = "regauge.kernel.default"
_REGIONS: dict[str, Region] = {}
Size = TypeVar("Size")


def spelled(region: Region) -> str:
    """The text by which the op is told of a region."""
    text = repr(region)
    _REGIONS[text] = region
    return text


@functools.cache
def _by_row(text: str) -> dict[str, bool]:
    """The operands of a region, and whether each has something for every row."""
    one, two = _REGIONS[text].operands(1), _REGIONS[text].operands(2)
    return {name: one[name].shape != two[name].shape for name in one}


def leading(region: Region, shape: Sequence[Size]) -> tuple[Size, ...]:
    """The axes of an input in front, which make up the rows."""
    return tuple(shape[: len(shape) + 1 - len(region.operands(1)["input"].shape)])


@torch.library.custom_op("regauge::kernel", mutates_args=())
def kernel(operands: Sequence[torch.Tensor], *, region: str, tries: int = 0) -> list[torch.Tensor]:
    """What the kernel of a region gives.

    Args:
        operands: In the order in which the region names them.
        region: As ``spelled`` has it.
        tries: Options that are timed for these rows on this device, unless they are known; where it
            is 0, the safest are taken.
    """
    what, device = _REGIONS[region], operands[0].device
    front = leading(what, operands[0].shape)
    rows = math.prod(front)
    if not rows:
        return _shaped(empty(what, 0, device), front)
    given: dict[str, torch.Tensor] = {}
    for (name, varies), value in zip(_by_row(region).items(), operands, strict=True):
        flat = value.reshape(rows, *value.shape[len(front) :]) if varies else value
        columns = varies and isinstance(what, Rows) and flat.stride(-1) == 1
        given[name] = flat if columns else flat.contiguous()
    # Triton launches on the current device, whatever that of the tensors is.
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        launch, results = prepare(what, given, chosen(what, given, tries))
        launch.run()
    return _shaped(results, front)


def _shaped(results: Tensors, front: tuple[int, ...]) -> list[torch.Tensor]:
    return [value.reshape(*front, *value.shape[1:]) for value in results.values()]


@kernel.register_fake
def _(operands: Sequence[torch.Tensor], *, region: str, tries: int = 0) -> list[torch.Tensor]:
    what = _REGIONS[region]
    front = leading(what, operands[0].shape)
    return [
        operands[0].new_empty((*front, *value.shape[1:]), dtype=value.dtype)
        for value in what.results(1).values()
    ]
