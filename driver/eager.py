"""Whether a traced graph is the model: what both give on the example.

Tracing sees another model where code depends on values, or takes a path of its own where nobody
records it: ``nn.TransformerEncoder`` in eval mode sets padded positions to zero, as it is traced it
does not. Passes are proven against the graph, so this is looked at by itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.func import functional_call
from torch.utils import _pytree as pytree

from ..ir import Graph
from ..ir.errors import first_line
from ..ir.interpret import execute, unflatten
from ..passes.manager import difference
from .convention import output_names

LEAST = 3e-4  # relative L2 that other kernels may come to in float32


def unlike(
    graph: Graph,
    flat: Sequence[Any],
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> str:
    """What a report says where a graph gives something else than its model; empty if it does not.

    Args:
        flat: The example as the graph's inputs.
        args: The example as the model's, with ``kwargs``.
    """
    with torch.no_grad():
        try:
            wanted = pytree.tree_leaves(_run(model, args, kwargs))
        except Exception as error:  # whatever the user's code raises
            name = type(error).__name__
            return (
                "the graph was not compared with the model, which does not run on the example: "
                f"{name}: {first_line(error)}"
            )
        # Once more than for the errors: outputs may be large, to be held while passes run.
        found = pytree.tree_leaves(unflatten(graph, execute(graph, flat)))
        if len(found) != len(wanted):
            return (
                f"the graph gives {len(found)} values on the example and the model {len(wanted)}: "
                "errors are those of the graph"
            )
        far = [
            f"{name} (relative L2 {gap:.2g})"
            for name, one, other in zip(output_names(graph), found, wanted, strict=True)
            if (gap := _gap(one, other)) > 0
        ]
    if not far:
        return ""
    return (
        f"on the example the traced graph gives something else than the model: {', '.join(far)}. "
        "Errors are against the graph. Code that depends on values does this, and so do paths that "
        "PyTorch takes in eval mode alone, such as that of nn.TransformerEncoder with padding"
    )


def _run(model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What the model gives; its buffers and its inputs stay as they are."""
    own = pytree.tree_map(_copied, (args, dict(kwargs)))
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the user has seen them
        return functional_call(model, buffers, *own)


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def _gap(one: Any, other: Any) -> float:
    """How far two outputs are from each other, 0 where rounding may come to it; whole numbers may
    be places of values that are nearly equal, and are not looked at."""
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return 0.0
    if one.shape != other.shape:
        return float("inf")
    if not (other.is_floating_point() or other.is_complex()):
        return 0.0
    gap = difference([one], [other])
    return gap if gap > tolerance(other.dtype) else 0.0


def tolerance(dtype: torch.dtype) -> float:
    """The relative L2 that rounding may come to."""
    return max(LEAST, torch.finfo(dtype).eps ** 0.5)
