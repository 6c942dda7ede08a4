"""Calibration data as the user has it, made into flat graph inputs and checked before any work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..ir import Graph, InputError
from .convention import bind

WRAP = "pass a list of inputs, each a tensor, a tuple for args, or a dict for kwargs"


def as_call(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """One input as positional and keyword arguments."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if isinstance(batch, (tuple, list)):
        return tuple(batch), {}
    return (batch,), {}


def read(calibration: object, graph: Graph, known: dict[str, Any]) -> list[list[Any]]:
    """Flat graph inputs, one list a batch; an ``InputError`` names the batch and the input.

    Args:
        calibration: An iterable of inputs; it is read to its end, once.
        graph: What the inputs must fit.
        known: The arguments that the trace took as constants; a batch may leave them out.
    """
    if calibration is None:
        return []
    if isinstance(calibration, (torch.Tensor, Mapping, str, bytes)):
        kind = type(calibration).__name__
        raise InputError(f"calibration is one {kind}, not an iterable of inputs", do=WRAP)
    if not isinstance(calibration, Iterable):
        kind = type(calibration).__name__
        raise InputError(f"calibration is a {kind}, which cannot be iterated over", do=WRAP)
    batches = [_read(index, batch, graph, known) for index, batch in enumerate(calibration)]
    if not batches:
        raise InputError(
            "calibration holds no batch", do=f"{WRAP}; a generator can be used only once"
        )
    return batches


def _read(index: int, batch: Any, graph: Graph, known: dict[str, Any]) -> list[Any]:
    args, kwargs = as_call(batch)
    try:
        flat = bind(graph, known, args, kwargs)
        check_finite(graph, flat)
    except InputError as error:
        raise InputError(
            f"calibration batch {index}: {error.what}", where=error.where, do=error.do
        ) from None
    return flat


def check_finite(graph: Graph, flat: list[Any]) -> None:
    """Refuse inputs that hold NaN or infinity."""
    for node, value in zip(graph.inputs, flat, strict=True):
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            bad = int((~torch.isfinite(value)).sum())
            if bad:
                kind = "NaN" if bool(value.isnan().any()) else "infinity"
                raise InputError(
                    f"{node.name}: {bad} of {value.numel()} numbers are not finite ({kind})",
                    do="clean the data; a float mask takes torch.finfo(dtype).min in place of -inf",
                )
