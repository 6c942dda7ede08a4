"""Let convolutions pad for themselves what is padded with zeros before them.

    conv(pad(x, p), padding=q)  =  conv(x, padding=p + q)

for zeros, as many on either side of an axis, on the axes that the kernel moves along. Exact.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import Graph, Node
from ...ir.gauge.sites import CONTRACTIONS
from ..base import Context, Pass, Remark, applied, missed


@dataclass(frozen=True)
class FoldPads(Pass):
    """Fold paddings into the convolutions that read them."""

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        remarks: list[Remark] = []
        for pad in [node for node in graph.nodes if node.op == "constant_pad_nd"]:
            for reader in list(pad.users):
                if reader.op in CONTRACTIONS and reader.op != "linear":
                    remarks.append(self._fold(pad, reader))
        graph.prune()
        return remarks

    def _fold(self, pad: Node, reader: Node) -> Remark:
        if reader.args[0] is not pad or pad in reader.inputs[1:]:
            return missed(pad, f"{reader.name} reads it as a weight")
        axes = -1 - CONTRACTIONS[reader.op]
        amounts, own = _amounts(pad, axes), _padding(reader, axes)
        if isinstance(amounts, str):
            return missed(pad, amounts)
        if own is None:
            return missed(pad, f"what {reader.name} pads with follows from its kernel")
        both = tuple(before + mine for before, mine in zip(amounts, own, strict=True))
        reader.replace_input(pad, pad.args[0])
        reader.set(attrs={**reader.attrs, "padding": both})
        return applied(reader, f"pads by {both} itself, as {pad.name} did")


def _amounts(pad: Node, axes: int) -> tuple[int, ...] | str:
    """The zeros on either side of each axis of space, or why there are none such."""
    if pad.attrs.get("value", 0):
        return f"it pads with {pad.attrs['value']}"
    given = pad.attrs["pad"]
    if not all(isinstance(amount, int) for amount in given):
        return "by how much it pads is only known later"
    pairs = list(zip(given[::2], given[1::2], strict=True))  # from the last axis on
    if any(any(pair) for pair in pairs[axes:]):
        return "it pads an axis that no kernel moves along"
    pairs = [*pairs[:axes], *[(0, 0)] * (axes - len(pairs))]
    if any(before != after or before < 0 for before, after in pairs):
        return "it does not pad both sides alike, and a convolution does"
    return tuple(before for before, _ in reversed(pairs))


def _padding(reader: Node, axes: int) -> tuple[int, ...] | None:
    padding = reader.attrs.get("padding", 0)
    if padding == "valid":
        return (0,) * axes
    if isinstance(padding, int):
        return (padding,) * axes
    if not isinstance(padding, tuple | list):
        return None
    return tuple(padding) * axes if len(padding) == 1 else tuple(padding)
