"""Layers whose operands are dequantized codes.

    linear(dequantize(q, s, z), dequantize(W, t, w), b)   ->  ort.linear_integer(q, s, z, W, t, w, b)
    linear(x, dequantize(W, t, w), b)                     ->  ort.linear_codes(x, W, t, w, b)
    embedding(dequantize(W, t, w), ids)                   ->  ort.embedding_codes(W, t, w, ids)

for codes of 8 bits, ``s`` a scalar or one a row, ``t`` a scalar or one an output channel.
"""

from __future__ import annotations

import torch

from ....ir import Graph, Node, TensorType
from ....ir.graph import Arg

_CODES = (torch.uint8, torch.int8)


def fuse(graph: Graph) -> None:
    for node in list(graph.nodes):
        found = _linear(node) if node.op == "linear" else _embedding(node) if node.op == "embedding" else None
        if found is not None:
            op, args = found
            new = graph.add(op, *args, type=node.type, where=node.where, before=node)
            _take_place(graph, node, new)


def _take_place(graph: Graph, old: Node, new: Node) -> None:
    graph.replace(old, new)
    old.name, new.name = new.name, old.name


def _weight(node: Arg) -> tuple[Node, Node, Node | None] | None:
    """Codes ``[O, I]``, their scale and their zero point, of a dequantized matrix."""
    if not isinstance(node, Node) or node.op != "dequantize":
        return None
    codes, scale, *rest = node.args
    zero = rest[0] if rest else None
    if codes.op != "param" or codes.dtype not in _CODES or len(codes.shape) != 2:
        return None
    layouts = {(), (1,), (1, 1), (codes.shape[0], 1)}
    fits = scale.shape in layouts and (zero is None or zero.shape == scale.shape)
    return (codes, scale, zero) if fits and scale.op == "param" else None


def _activation(node: Arg) -> tuple[Node, Node, Node | int | None] | None:
    """Codes ``[..., I]``, their scale and their zero point, of a dequantized value."""
    if not isinstance(node, Node) or node.op != "dequantize":
        return None
    codes, scale, *rest = node.args
    zero = rest[0] if rest else None
    if codes.dtype not in _CODES or scale.dtype != torch.float32:
        return None
    if scale.shape in ((), (1,)):
        return codes, scale, zero
    if scale.shape != (*codes.shape[:-1], 1):
        return None
    middle = _middle(zero)
    return None if middle is None else (codes, scale, middle)


def _middle(zero: Arg) -> int | None:
    """The zero point of codes by row, where it is the same for all rows."""
    match zero:
        case None:
            return 0
        case Node("getitem", (Node("dynamic_quantize") as made, 2)):
            assert isinstance(made.type, tuple) and isinstance(made.type[0], TensorType)
            return 128 if made.type[0].dtype == torch.uint8 else 0
        case _:
            return None


def _linear(node: Node) -> tuple[str, tuple[Arg, ...]] | None:
    bias = node.args[2] if len(node.args) > 2 else None
    weight = _weight(node.args[1])
    if weight is None:
        return None
    activation = _activation(node.args[0])
    if activation is None:
        return "ort.linear_codes", (node.args[0], *weight, bias)
    return "ort.linear_integer", (*activation, *weight, bias)


def _embedding(node: Node) -> tuple[str, tuple[Arg, ...]] | None:
    weight = _weight(node.args[0])
    return None if weight is None else ("ort.embedding_codes", (*weight, node.args[1]))
