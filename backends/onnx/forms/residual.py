"""``norm(a + b)`` with the addition as ``ort.sum``, which becomes ONNX's Sum.

ONNX Runtime fuses an Add and the LayerNormalization behind it into SkipLayerNormalization, whose
kernel is 7 to 10 times slower than the two (a tenth of the whole); it does not know a Sum of
two.
"""

from __future__ import annotations

from ....ir import Graph, Node, TensorType
from ....ir.graph import Arg

_NORMS = {"layer_norm", "rms_norm"}


def fuse(graph: Graph) -> None:
    for node in list(graph.nodes):
        if node.op == "add" and not node.attrs and any(user.op in _NORMS for user in node.users):
            if all(_is_plain(arg, node) for arg in node.args):
                new = graph.add(
                    "ort.sum", *node.args, type=node.type, where=node.where, before=node
                )
                graph.supersede(node, new)


def _is_plain(arg: Arg, node: Node) -> bool:
    """Whether an operand is a tensor that needs no cast."""
    return isinstance(arg, Node) and isinstance(arg.type, TensorType) and arg.dtype == node.dtype
