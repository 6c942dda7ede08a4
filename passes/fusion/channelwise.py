"""Values that follow another channel by channel, and constants beside the channels of a map."""

from __future__ import annotations

from typing import Any

import torch

from ...ir import Graph, Node, ops
from ...ir.finite import is_finite
from ...ir.gauge.sites import CONTRACTIONS
from ...ir.laws import Movement
from ...ir.ops import has_law
from .fold_batch_norm import affine
from .linear_maps import Form


def constant(graph: Graph, arg: Any) -> torch.Tensor | None:
    """The value of a number, a parameter, or a parameter in another shape; else ``None``."""
    if isinstance(arg, int | float):
        return torch.tensor(arg, dtype=torch.float64)
    if not isinstance(arg, Node):
        return None
    if arg.op == "param":
        return graph.value(arg)
    if not has_law(arg.op, Movement):
        return None
    if len(arg.inputs) != 1:  # a list of values, or a size that is only known later
        return None
    inner = constant(graph, arg.inputs[0])
    return None if inner is None else ops.call(arg.op, (inner, *arg.args[1:]), arg.attrs)


def by_channel(graph: Graph, arg: Any, form: Form) -> torch.Tensor | None:
    """A finite constant beside a map's result as ``[O]``; ``None`` if it varies elsewhere."""
    value = constant(graph, arg)
    axis = CONTRACTIONS[form.op]
    if value is None or value.numel() not in (1, form.outputs):
        return None
    if value.numel() > 1 and (value.dim() < -axis or value.shape[axis] != form.outputs):
        return None
    value = value.double().flatten().expand(form.outputs)
    return value if is_finite(value) else None


def as_diagonal(
    graph: Graph, node: Any, source: Node, form: Form
) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """A value as ``scale x + shift`` of another, channel by channel, each ``[O]``.

    ``None`` where it is none. Batch norms and constant factors lie between the two, if anything.
    """
    if node is source:
        return torch.ones(form.outputs, dtype=torch.float64), None
    if not isinstance(node, Node) or node.op not in ("batch_norm", "neg", "mul", "div"):
        return None
    inner, scale, shift = _step(graph, node, form)
    if scale is None or not isinstance(inner, Node) or inner.type != node.type:
        return None
    before = as_diagonal(graph, inner, source, form)
    if before is None:
        return None
    moved = None if before[1] is None else before[1] * scale
    both = [part for part in (moved, shift) if part is not None]
    return before[0] * scale, sum(both[1:], both[0]) if both else None


def _step(
    graph: Graph, node: Node, form: Form
) -> tuple[Any, torch.Tensor | None, torch.Tensor | None]:
    """What one op multiplies by a constant, that constant, and what it adds, each ``[O]``."""
    left, *others = node.args
    if node.op == "neg":
        return left, torch.full((form.outputs,), -1.0, dtype=torch.float64), None
    if node.op == "batch_norm":
        fixed = all(other is None or other.op == "param" for other in others)
        last = len(node.shape) != 1 - CONTRACTIONS[form.op]  # channels are on another axis
        return (left, None, None) if last or not fixed else (left, *affine(graph, node))
    if node.op == "mul" and constant(graph, left) is not None:
        left, others = others[0], [left]
    scale = None if "rounding_mode" in node.attrs else by_channel(graph, others[0], form)
    return left, scale if scale is None or node.op == "mul" else 1 / scale, None
