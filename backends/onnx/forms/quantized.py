"""Layers whose operands are dequantized codes.

    linear(dequantize(q, s, z), dequantize(W, t, w), b)  ->  ort.linear_integer(q, s, z, W, t, w, b)
    linear(x, dequantize(W, t, w), b)                    ->  ort.linear_codes(x, W, t, w, b)
    embedding(dequantize(W, t, w), ids)                  ->  ort.embedding_codes(W, t, w, ids)
    quantize(relu(conv(dequantize(q, s, z), dequantize(W, t), b)), r, y)
                                                 ->  ort.conv_integer(q, s, z, W, t, b, r, y)
    quantize(relu(add(dequantize(p, s, z), dequantize(q, t, w))), r, y)
                                                 ->  ort.add_integer(p, s, z, q, t, w, r, y)
    quantize(max_pool(dequantize(q, s, z)), s, z)
                                                 ->  max_pool(q)
    quantize(reshape(dequantize(q, s, z)), s, z) ->  reshape(q)

for codes of 8 bits, ``s`` a scalar or one a row, ``t`` a scalar or one an output channel. A
convolution gains only where its result is quantized as well: ONNX Runtime's one for integers that
gives floats is slower than that on floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch

from ....ir import Graph, Node, TensorType
from ....ir.clips import CLIPS, clip_limits
from ....ir.graph import Arg

_Form: TypeAlias = "tuple[str, tuple[Arg, ...], dict[str, Arg]]"
_CODES = (torch.uint8, torch.int8)


def fuse(graph: Graph) -> None:
    """Bring a graph to the forms of ONNX Runtime."""
    _fuse(graph, {"linear": _linear, "embedding": _embedding, "quantize": _quantize})


def fuse_weights(graph: Graph) -> None:
    """Let readers of dequantized weights have the codes, whatever else they read."""
    _fuse(graph, {"linear": _linear_codes, "embedding": _embedding})


def _fuse(graph: Graph, forms: Mapping[str, Callable[[Graph, Node], _Form | None]]) -> None:
    for node in list(graph.nodes):
        form = forms.get(node.op)
        found = None if form is None else form(graph, node)
        if found is not None:
            op, args, attrs = found
            new = graph.add(op, *args, type=node.type, where=node.where, before=node, **attrs)
            graph.supersede(node, new)


def _operands(node: Node) -> tuple[Node, Node, Node | None]:
    """What is scaled, the scale and the zero point."""
    return node.args[0], node.args[1], _optional(node, 2)


def _optional(node: Node, place: int) -> Node | None:
    return node.args[place] if len(node.args) > place else None


def weight_codes(node: Arg) -> tuple[Node, Node, Node | None] | None:
    """Codes ``[O, ...]``, their scale and their zero point, of a dequantized weight."""
    if not isinstance(node, Node) or node.op != "dequantize":
        return None
    codes, scale, zero = _operands(node)
    if codes.op != "param" or codes.dtype not in _CODES:
        return None
    ones = (1,) * (len(codes.shape) - 1)
    layouts = {(), (1,), (1, *ones), (codes.shape[0], *ones)}
    fits = scale.shape in layouts and (zero is None or zero.shape == scale.shape)
    return (codes, scale, zero) if fits and scale.op == "param" else None


def activation_codes(node: Arg) -> tuple[Node, Node, Node | int | None] | None:
    """Codes ``[..., I]``, their scale and their zero point, of a dequantized value."""
    if not isinstance(node, Node) or node.op != "dequantize":
        return None
    codes, scale, zero = _operands(node)
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


def _linear(graph: Graph, node: Node) -> _Form | None:
    found, activation = _linear_codes(graph, node), activation_codes(node.args[0])
    if found is None or activation is None:
        return found
    return "ort.linear_integer", (*activation, *found[1][1:]), {}


def _linear_codes(graph: Graph, node: Node) -> _Form | None:
    weight = weight_codes(node.args[1])
    if weight is None or len(weight[0].shape) != 2:
        return None
    return "ort.linear_codes", (node.args[0], *weight, _optional(node, 2)), {}


def _embedding(graph: Graph, node: Node) -> _Form | None:
    weight = weight_codes(node.args[0])
    if weight is None or len(weight[0].shape) != 2 or not weight[1].shape:
        return None  # rows that share a scale are codes of the table's, which are only moved
    return "ort.embedding_codes", (*weight, node.args[1]), {}


def _quantize(graph: Graph, node: Node) -> _Form | None:
    """A quantize, with what makes the value and the relu after that."""
    value, scale, zero = _operands(node)
    if scale.op != "param" or scale.shape not in ((), (1,)) or node.dtype != torch.uint8:
        return None
    if len(value.users) == 1 and is_implied(graph, value, scale, zero):
        value = value.args[0]
    if len(value.users) > 1:
        return None
    match value.op:
        case "conv1d" | "conv2d" | "conv3d":
            return _conv(value, scale, zero)
        case "add":
            return _add(value, scale, zero)
        case "max_pool1d" | "max_pool2d" | "reshape":
            return _passed(graph, value, scale, zero)
        case _:
            return None


def _add(value: Node, scale: Node, zero: Node | None) -> _Form | None:
    left, right = activation_codes(value.args[0]), activation_codes(value.args[1])
    if left is None or right is None or value.attrs.get("alpha", 1) != 1:
        return None
    if any(part[1].op != "param" or isinstance(part[2], int) for part in (left, right)):
        return None
    return "ort.add_integer", (*left, *right, scale, zero), {}


def _same(graph: Graph, ours: tuple[Node | None, ...], others: tuple[Node | None, ...]) -> bool:
    """Whether parameters have the same values."""
    for one, other in zip(ours, others, strict=True):
        if one is other:
            continue
        if one is None or other is None or one.op != "param" or other.op != "param":
            return False
        if not torch.equal(graph.value(one), graph.value(other)):
            return False
    return True


def _passed(graph: Graph, value: Node, scale: Node, zero: Node | None) -> _Form | None:
    """An op that gives some of what it reads: the greatest code is the code of the greatest."""
    source = value.args[0]
    if source.op != "dequantize" or not _same(graph, _operands(source)[1:], (scale, zero)):
        return None
    return value.op, (source.args[0], *value.args[1:]), dict(value.attrs)


def _conv(value: Node, scale: Node, zero: Node | None) -> _Form | None:
    weight, activation = weight_codes(value.args[1]), activation_codes(value.args[0])
    bias = _optional(value, 2)
    if (
        weight is None
        or weight[2] is not None
        or activation is None
        or isinstance(activation[2], int)
    ):
        return None
    constant = activation[1].op == "param" and (bias is None or bias.op == "param")
    if not constant or len(value.args[0].shape) != len(weight[0].shape):
        return None
    return "ort.conv_integer", (*activation, *weight[:2], bias, scale, zero), dict(value.attrs)


def is_implied(graph: Graph, value: Node, scale: Node, zero: Node | None) -> bool:
    """Whether the value is a relu, maybe with a top, that the range of its codes says once more."""
    if zero is not None and (zero.op != "param" or bool(graph.value(zero).any())):
        return False
    if value.op not in CLIPS:
        return False
    low, high = clip_limits(value)
    if low != 0 or isinstance(high, Node):
        return False
    return high is None or float(high) >= 254.5 * graph.value(scale).item()
