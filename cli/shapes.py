"""The ``--shapes`` option: ``input_ids=batch:8,128`` gives each size, and whether it may vary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..ir import InputError

FORM = "write it as NAME=SIZE,SIZE,... with SIZE a number, a name, or name:number"


@dataclass(frozen=True)
class Size:
    """One size of an input: its name if it may vary, its number in the example if that is given."""

    name: str | None
    number: int | None


def parse(options: Iterable[str]) -> dict[str, list[Size]]:
    """Sizes by input."""
    found: dict[str, list[Size]] = {}
    for option in options:
        name, equals, sizes = option.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--shapes {option}: expected an input's name and '='", do=FORM)
        found[name.strip()] = [_size(part.strip(), option) for part in sizes.split(",")]
    return found


def _size(text: str, option: str) -> Size:
    match = re.fullmatch(r"(?:([A-Za-z_]\w*)(?::(\d+))?)|(\d+)", text)
    if match is None:
        raise InputError(f"--shapes {option}: {text!r} is not a size", do=FORM)
    name, number, fixed = match.groups()
    return Size(name, int(fixed or number) if fixed or number else None)


def dynamic(
    shapes: Mapping[str, list[Size]],
    example: Mapping[str, Any],
    limits: Mapping[str, int] | None = None,
) -> dict[str, Any] | None:
    """``dynamic_shapes`` for ``torch.export``, by argument; ``None`` when nothing varies.

    Args:
        limits: The greatest value of a size, by its name, where that is known.

    Raises:
        InputError: The sizes are not those of the example.
    """
    if not shapes:
        return None
    for name, sizes in shapes.items():
        value = example.get(name)
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"--shapes {name}: there is no such input", do=f"choose of: {', '.join(example)}"
            )
        numbers = [size.number for size in sizes]
        actual = list(value.shape)
        fits = len(actual) == len(numbers) and all(
            n in (None, a) for n, a in zip(numbers, actual, strict=True)
        )
        if not fits:
            raise InputError(
                f"--shapes {name}: the example has the shape {actual}", do="give its sizes"
            )
    names = {size.name for sizes in shapes.values() for size in sizes if size.name}
    dims = {name: torch.export.Dim(name, max=(limits or {}).get(name)) for name in names}
    return {
        name: {at: dims[size.name] for at, size in enumerate(shapes.get(name, ())) if size.name}
        or None
        for name in example
    }
