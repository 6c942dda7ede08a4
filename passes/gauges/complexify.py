"""Real linear maps as widely linear complex ones (A50, F7.2).

With the input halved into z = x[:n] + i x[n:], and the result likewise, every real matrix is

    w = U z + V conj(z),    2 U = R11 + R22 + i (R21 - R12),    2 V = R11 - R22 + i (R21 + R12)

for the quarters R of W. The graph then holds the four real parts of U and V, and puts W together
from them; a runtime folds that when it loads. Exact. What rounds complex numbers to {1, -1, i, -i},
in stages, is ``formats.stages`` with the format ``phase``; no pass stores U and V so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...ir import Graph, Node, TensorType
from ..base import Context, Remark, Stage, applied, missed
from ..sites import Asked, SitePass


@dataclass(frozen=True)
class Complexify(SitePass):
    """Store the weights of linear layers as U and V."""

    what: ClassVar[str] = "a linear layer or its weight"
    stage: ClassVar[Stage] = Stage.GAUGE

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        found: dict[Node, Node] = {}
        for node in graph.nodes:
            if node.op == "linear" and node.args[1].op == "param":
                found.setdefault(node.args[1], node)
        chosen = {w: node for w, node in found.items() if asked(w, *w.users)}
        return [_split(graph, weight, node) for weight, node in chosen.items()]


def parts(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """U and V, complex ``[o, i]``, of a real ``[2 o, 2 i]``."""
    upper, lower = weight.chunk(2)
    (r11, r12), (r21, r22) = upper.chunk(2, 1), lower.chunk(2, 1)
    return (
        torch.complex(r11 + r22, r21 - r12) / 2,
        torch.complex(r11 - r22, r21 + r12) / 2,
    )


def _split(graph: Graph, weight: Node, first: Node) -> Remark:
    if any(size % 2 for size in weight.shape if isinstance(size, int)):
        return missed(first, f"{weight.name} has an odd size, so it has no halves")
    u, v = parts(graph.value(weight))
    origin = graph.store.origin.get(weight.name, (weight.name,))
    names = ("u_real", "u_imag", "v_real", "v_imag")
    values = (u.real, u.imag, v.real, v.imag)
    ur, ui, vr, vi = (
        graph.param(f"{weight.name}_{name}", value.contiguous(), origin)
        for name, value in zip(names, values, strict=True)
    )
    rows, columns = (int(size) for size in weight.shape)
    half = TensorType(weight.dtype, (rows // 2, columns // 2))
    wide = TensorType(weight.dtype, (rows // 2, columns))

    def put(op: str, *args: Node) -> Node:
        return graph.add(op, *args, type=half, before=first, name=f"{weight.name}_quarter")

    quarters = (put("add", ur, vr), put("sub", vi, ui), put("add", ui, vi), put("sub", ur, vr))
    halves = [
        graph.add("cat", quarters[i : i + 2], dim=1, type=wide, before=first,
                  name=f"{weight.name}_half")
        for i in (0, 2)
    ]  # fmt: skip
    whole = graph.add("cat", tuple(halves), dim=0, type=weight.type, before=first,
                      name=f"{weight.name}_whole")  # fmt: skip
    graph.replace(weight, whole)
    graph.prune()
    return applied(first, f"{weight.name} as U z + V conj(z)")
