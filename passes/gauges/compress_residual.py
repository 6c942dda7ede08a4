"""Leave out the last coordinate of a centred residual stream: Pre-CRMSNorm (A49, F2 step 4).

A stream x of mean zero over n channels has x[n] = -(x[1] + ... + x[n-1]). So the stream holds n - 1
channels, its norm is

    x / sqrt((sum x^2 + (sum x)^2) / n + eps)

and who reads the norm reads W[:, :n-1] - W[:, n-1:]. Exact. It applies where the stream can be
centred by its parameters alone, and each norm's weight and bias fold into linear maps that are its
only readers. The gain is small, and n - 1 is an odd number of channels: measure before use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...ir import Graph, Node, TensorType
from ...ir.gauge import Blocked, Region, apply, transport
from ...ir.gauge.region import operand
from ...ir.laws import Kind
from ..base import Context, Remark, applied, blocked, missed
from ..sites import Asked, SitePass
from ..ties import tie_in_the_way
from .center_residual import norms_of
from .fold_norm_affine import FoldNormAffine

_SIZES = {"reshape": "shape", "expand": "size"}  # attributes that spell out the result's sizes


@dataclass(frozen=True)
class CompressResidual(SitePass):
    """Centre residual streams and drop their last channel; do it before ``CenterResidual``."""

    what: ClassVar[str] = "what a LayerNorm reads, or the norm"

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        remarks: list[Remark] = []
        for node in list(graph.nodes):
            if node.op == "layer_norm" and node.args and asked(node, node.args[0]):
                remarks.append(self._compress(graph, node))
        return remarks

    def _compress(self, graph: Graph, node: Node) -> Remark:
        stream = node.args[0]
        region = transport(graph, stream, Kind.CENTRE)
        if isinstance(region, Blocked):
            return blocked(node, f"its input cannot be centred: {region}", region)
        norms = norms_of(region)
        linear = [norm for norm in norms if _feeds_linear_maps(norm)]
        if reason := self._obstacle(graph, region, len(norms), len(linear)):
            return missed(node, reason)
        for norm in list(linear):
            if not FoldNormAffine().fold_into_readers(graph, norm).applied:
                linear.remove(norm)
        region = transport(graph, stream, Kind.CENTRE)  # as the graph is now
        assert isinstance(region, Region)
        apply(graph, region, torch.empty(0))
        region = transport(graph, stream, Kind.CENTRE)  # with the centred parameters
        assert isinstance(region, Region)
        _drop_last(graph, region)
        for norm in norms:
            _compress_norm(graph, norm, whole=norm not in linear)
        graph.prune()
        text = f"{region.size - 1} channels of {region.size}; {len(norms)} norms"
        return applied(stream, f"{text}, {len(norms) - len(linear)} with the last one put back")

    def _obstacle(self, graph: Graph, region: Region, norms: int, linear: int) -> str:
        """What is in the way, as the graph stands."""
        if 2 * linear < norms:
            return f"only {linear} of {norms} norms are read by linear maps alone"
        if sentence := tie_in_the_way(graph, region):
            return sentence
        for value, action in region.actions.items():
            key = _SIZES.get(value.op)
            size = value.attrs[key][action.axes[0]] if key else -1
            if size not in (-1, region.size):
                return f"{value.name} ({value.op}) merges the channels with another axis"
        return ""


def _feeds_linear_maps(norm: Node) -> bool:
    """Whether all that reads a norm is linear maps with weights of their own."""
    return all(
        user.op == "linear"
        and user.args[0] is norm
        and user.args[1].op == "param"
        and len(user.args[1].users) == 1
        for user in norm.users
    )


def _drop_last(graph: Graph, region: Region) -> None:
    """Take the last channel out of all that writes the stream, and out of its types."""
    for edit in list(region.edits.values()):
        param = operand(edit.node, edit.port)
        (axis,) = edit.action.axes
        if param is not None and param.shape[axis] == region.size:
            value = graph.value(param).narrow(axis, 0, region.size - 1).contiguous()
            new = graph.param(param.name, value, origin=graph.store.origin.get(param.name))
            graph.supersede(param, new)
    for value, action in region.actions.items():
        (axis,) = action.axes
        shape = list(value.shape)
        shape[axis] = region.size - 1
        value.type = TensorType(value.dtype, tuple(shape))
        key = _SIZES.get(value.op)
        if key:
            sizes = list(value.attrs[key])
            sizes[axis] = sizes[axis] if sizes[axis] == -1 else region.size - 1
            value.set(None, {**value.attrs, key: tuple(sizes)})


def _compress_norm(graph: Graph, norm: Node, *, whole: bool) -> None:
    """LayerNorm of n centred channels as CRMSNorm of n - 1, and its readers' weights to fit.

    With ``whole`` the last channel, minus the sum of the others, is put back for the readers.
    """
    new = graph.add(
        "crms_norm",
        norm.args[0],
        name=norm.name,
        type=norm.args[0].type,
        where=norm.where,
        before=norm,
        eps=norm.attrs.get("eps", 1e-5),
    )
    if not whole:
        for reader in list(norm.users):
            weight = graph.value(reader.args[1])
            graph.give(reader, 1, (weight[:, :-1] - weight[:, -1:]).contiguous())
        graph.supersede(norm, new)
        return
    last = len(norm.shape) - 1
    total = graph.add("sum", new, dim=(last,), keepdim=True, name=f"{norm.name}_sum", before=norm)
    minus = graph.add("neg", total, name=f"{norm.name}_last", before=norm)
    full = graph.add("cat", (new, minus), dim=last, type=norm.type, before=norm)
    for op, index in (("mul", 1), ("add", 2)):
        if norm.operand(index) is not None:
            full = graph.add(op, full, norm.args[index], type=norm.type, before=norm)
    graph.supersede(norm, full)
