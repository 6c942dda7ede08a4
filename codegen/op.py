"""Kernels as one op of PyTorch, ``regauge::kernel``, which ``torch.compile`` takes as it is.

It is told of a region by its text, and how many options of its space it may try. Rows may have
several axes in front, which come back in the results.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch

from .description import Region, Tensors
from .kernels import empty, prepare
from .rows import Rows
from .tuning import chosen

NAME = "regauge.kernel.default"
_REGIONS: dict[str, Region] = {}


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


def _leading(region: Region, input: torch.Tensor) -> tuple[int, ...]:
    """The axes in front, which make up the rows."""
    return tuple(input.shape[: input.dim() + 1 - len(region.operands(1)["input"].shape)])


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
    leading = _leading(what, operands[0])
    rows = math.prod(leading)
    if not rows:
        return [
            value.reshape(*leading, *value.shape[1:]) for value in empty(what, 0, device).values()
        ]
    given: dict[str, torch.Tensor] = {}
    for (name, varies), value in zip(_by_row(region).items(), operands, strict=True):
        flat = value.reshape(rows, *value.shape[len(leading) :]) if varies else value
        columns = varies and isinstance(what, Rows) and flat.stride(-1) == 1
        given[name] = flat if columns else flat.contiguous()
    # Triton launches on the current device, whatever that of the tensors is.
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        launch, results = prepare(what, given, chosen(what, given, tries))
        launch.run()
    return _shaped(results, leading)


def _shaped(results: Tensors, leading: tuple[int, ...]) -> list[torch.Tensor]:
    return [value.reshape(*leading, *value.shape[1:]) for value in results.values()]


@kernel.register_fake
def _(operands: Sequence[torch.Tensor], *, region: str, tries: int = 0) -> list[torch.Tensor]:
    what = _REGIONS[region]
    leading = _leading(what, operands[0])
    return [
        operands[0].new_empty((*leading, *value.shape[1:]), dtype=value.dtype)
        for value in what.results(1).values()
    ]
