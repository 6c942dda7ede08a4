"""Store weights as int8, one scale for each output channel, or each row of an embedding.

    w[o, :] = s[o] q[o, :],   s[o] = max |w[o, :]| / 127,   q = round(w / s)

The dequantization stays in the graph as an op on the codes; a backend folds it into its integer kernels. A tied table
stays tied: an embedding's row is an output channel of the head that shares it. Approximate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..ir import Graph, Node
from ..ir.gauge import weighted
from .base import Context, Pass, Promise, Remark, Stage, applied, missed


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Quantize the weights of contractions and embeddings.

    Args:
        embeddings: Whether embedding tables are quantized too.
        least: Weights of fewer elements than this stay as they are: they weigh nothing.
    """

    embeddings: bool = True
    least: int = 1024
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.QUANTIZE

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        remarks: list[Remark] = []
        for param in list(graph.params.values()):
            readers = [user for user in param.users if self._takes(user, param)]
            if not readers:
                continue
            weight = graph.value(param)
            if weight.numel() < self.least:
                remarks.append(missed(readers[0], f"{param.name} has only {weight.numel()} elements"))
                continue
            if len(readers) < len(param.users):
                others = ", ".join(user.name for user in param.users if user not in readers)
                remarks.append(missed(readers[0], f"{param.name} is also read by {others}"))
                continue
            quantize_param(graph, param)
            remarks.append(applied(readers[0], f"{param.name} in int8, {weight.shape[0]} scales"))
        return remarks

    def _takes(self, user: Node, param: Node) -> bool:
        if user.op == "embedding":
            return self.embeddings and user.args[0] is param
        return weighted(user) and user.args[1] is param


def quantize_param(graph: Graph, param: Node, scale: torch.Tensor | None = None) -> Node:
    """Replace a parameter by codes and the op that dequantizes them; ``scale`` is ``[O, 1, ...]``."""
    weight = graph.value(param)
    scale = scales(weight) if scale is None else scale
    codes = torch.clamp(torch.round(weight / scale), -127, 127).to(torch.int8)
    first = next(node for node in graph.nodes if node in param.users)
    origin = graph.store.origin.get(param.name, ())
    stored = graph.param(f"{param.name}_codes", codes, origin=origin)
    factor = graph.param(f"{param.name}_scale", scale.to(weight.dtype), origin=())
    value = graph.add(
        "dequantize", stored, factor, name=f"{param.name}_value", type=param.type, before=first
    )
    graph.replace(param, value)
    graph.erase(param)
    return value


def scales(weight: torch.Tensor) -> torch.Tensor:
    """The scale of each row, ``[O, 1, ...]``; a row of zeros has 1."""
    peak = weight.abs().amax(dim=tuple(range(1, weight.dim())), keepdim=True)
    return torch.where(peak > 0, peak / 127, torch.ones_like(peak))
