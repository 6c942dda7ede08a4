"""Fold an inference batch norm into the convolution or linear map before it, or those behind it.

    s (W x + c - m) / r + t  =  (s / r W) x + (s / r (c - m) + t)          r = sqrt(v + eps)
    W (s (x - m) / r + t) + c  =  (W s / r) x + (W (t - s m / r) + c)

s, t, m, v are the batch norm's weight, bias, mean and variance, per channel. Exact. What comes
before it takes it up where nothing else reads that; what comes behind, where all that reads it can,
and pads with no zeros, which would have to be ``m - t r / s``. Source: Jacob et al. 2018,
arXiv:1712.05877, section 3.2 (F12, 12.6).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...ir import Graph, Node
from ...ir.gauge.sites import LINEAR_MAPS, TRANSPOSED
from ..base import Context, Pass, Remark, applied, missed
from ..ties import own
from .linear_maps import Form, form_of


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold batch norms backward, and those that are left forward."""

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        norms = [node for node in graph.nodes if node.op == "batch_norm"]
        found = {node: self._backward(graph, node) for node in norms}
        for node in reversed(norms):  # of two in a row the second goes first
            if not found[node].applied:
                found[node] = self._forward(graph, node, found[node].text)
        graph.prune()
        return list(found.values())

    def _backward(self, graph: Graph, node: Node) -> Remark:
        before = node.args[0]
        if before.op not in LINEAR_MAPS:
            return missed(
                node, f"{before.name} ({before.op}) comes before it, and no weights to fold it into"
            )
        if others := [user.name for user in before.users if user is not node]:
            return missed(node, f"{before.name} is also read by {', '.join(others)}")
        if not _meets_channels(before, node):
            return missed(node, f"its channels are not those of {before.name}")
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

    def _forward(self, graph: Graph, node: Node, reason: str) -> Remark:
        """Fold it into all that reads it; ``reason`` says why nothing before it takes it up."""
        if any(part is not None and part.op != "param" for part in node.args[1:]):
            return missed(node, reason)
        scale, shift = affine(graph, node)
        forms = {reader: form_of(reader) for reader in node.users}
        for reader, form in forms.items():
            if why := _unfit(node, reader, form, bool(shift.any())):
                return missed(node, f"{reason}; {reader.name} ({reader.op}) reads it: {why}")
        readers = list(forms)
        for reader in readers:
            weight, bias = graph.value(reader.args[1]), reader.operand(2)
            scaled, shifted = (_across(reader, weight, each) for each in (scale, shift))
            old = 0.0 if bias is None else graph.value(bias)
            graph.give(reader, 1, scaled)
            graph.give(reader, 2, old + shifted.flatten(1).sum(1), name=f"{reader.name}_bias")
        value = node.args[0]
        graph.replace(node, value)
        graph.erase(node)
        return applied(value, f"{', '.join(r.name for r in readers)} took up {node.name}")


def _unfit(node: Node, reader: Node, form: Form | None, shifts: bool) -> str:
    """Why what reads a batch norm does not take it up; empty if it does."""
    if form is None:
        return "it takes up no scale"
    if own(reader, 1) is None:
        return "others share its weight"
    if not _meets_channels(reader, node):
        return "it reads another axis than that of the channels"
    if shifts and any(window.before or window.after for window in form.windows):
        return "it pads with zeros, which the batch norm would shift"
    return ""


def _meets_channels(layer: Node, norm: Node) -> bool:
    """Whether a layer beside a batch norm has its channels on axis 1 too.

    A linear layer's are on axis 1 of a matrix alone, a convolution's on axis 0 where its value has
    no batch: where the value has as many axes as the weight, they are on axis 1 of both.
    """
    return len(norm.shape) == len(layer.args[1].shape)


def _across(reader: Node, weight: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """A weight ``(O, I / groups, *)`` times a number for each channel that it reads."""
    groups = reader.attrs.get("groups", 1)
    of_group = numbers.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))
    return (weight.unflatten(0, (groups, -1)) * of_group).flatten(0, 1)


def _beside(before: Node, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """A number for each output channel in the form in which it multiplies the weight."""
    if before.op not in TRANSPOSED:  # (O, I / groups, *)
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
