"""Fold an inference batch norm into the convolution or linear map before it.

    s (W x + c - m) / r + t  =  (s / r W) x + (s / r (c - m) + t)          r = sqrt(v + eps)

s, t, m, v are the batch norm's weight, bias, mean and variance, per output channel. Exact. It
applies where the batch norm is the only reader. Source: Jacob et al. 2018, arXiv:1712.05877,
section 3.2 (F12, 12.6).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...ir import Graph, Node
from ..base import Context, Pass, Remark, applied, missed

_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_BEFORE = ("conv1d", "conv2d", "conv3d", "linear", *_TRANSPOSED)


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold batch norms backward."""

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        remarks = [self._fold(graph, node) for node in list(graph.nodes) if node.op == "batch_norm"]
        graph.prune()
        return remarks

    def _fold(self, graph: Graph, node: Node) -> Remark:
        before = node.args[0]
        if before.op not in _BEFORE:
            return missed(
                node, f"{before.name} ({before.op}) comes before it, and no weights to fold it into"
            )
        if others := [user.name for user in before.users if user is not node]:
            return missed(node, f"{before.name} is also read by {', '.join(others)}")
        if before.op == "linear" and len(node.shape) != 2:
            return missed(node, f"its channels are not the last axis of {before.name}")
        parts = [*before.args[1:], *node.args[1:]]
        if any(isinstance(part, Node) and part.op != "param" for part in parts):
            return missed(node, "a weight is not a constant")
        scale, shift = affine(graph, node)
        weight = graph.value(before.args[1])
        bias = before.operand(2)
        old = graph.value(bias) if bias is not None else torch.zeros_like(scale)
        graph.give(before, 1, weight * _beside(before, weight, scale))
        graph.give(before, 2, old * scale + shift, name=f"{before.name}_bias")
        graph.replace(node, before)
        graph.erase(node)
        return applied(before, f"took up {node.name}")


def _beside(before: Node, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """A number for each output channel in the form in which it multiplies the weight."""
    if before.op not in _TRANSPOSED:  # (O, I / groups, *)
        return scale.reshape(-1, *[1] * (weight.dim() - 1))
    groups = before.attrs.get("groups", 1)  # (I, O / groups, *), a group's inputs side by side
    by_input = scale.reshape(groups, -1).repeat_interleave(len(weight) // groups, 0)
    return by_input.reshape(*by_input.shape, *[1] * (weight.dim() - 2))


def affine(graph: Graph, node: Node) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch norm as ``x * scale + shift``, each ``(C,)``."""
    weight, bias, mean, variance = node.args[1:5]
    m, v = graph.value(mean), graph.value(variance)
    scale = torch.rsqrt(v + node.attrs["eps"])
    scale = scale if weight is None else scale * graph.value(weight)
    shift = -m * scale
    return scale, shift if bias is None else shift + graph.value(bias)
