"""Zeros around an image as part of the convolution that reads it.

    conv(pad(x), padding=q)                      ->  conv(x, padding=(before..., after...))
    conv(dequantize(quantize(pad(x))))           ->  conv(dequantize(quantize(x)), padding=...)

PyTorch's convolution pads both sides alike, ONNX's each as it is told. Zero has a code of its own,
the zero point, so it makes no difference which comes first.
"""

from __future__ import annotations

from typing import Any

from ....ir import Graph, Node
from ....ir.graph import Arg
from ..builder import pair

_SPATIAL = {"conv1d": 1, "conv2d": 2, "conv3d": 3}


def fuse(graph: Graph) -> None:
    moved: dict[Node, Node] = {}  # padded codes -> those of what was padded
    for node in list(graph.nodes):
        count = _SPATIAL.get(node.op)
        if count is None or isinstance(node.attrs.get("padding"), str):
            continue
        data: Node = node.args[0]
        pads = _zeros(data, count)
        if pads is not None:
            data = data.args[0]
        elif data.op == "dequantize" and data.args[0].op == "quantize":
            pads = _zeros(data.args[0].args[0], count)
            if pads is not None and data not in moved:
                moved[data] = _unpadded(graph, data)
            data = moved.get(data, data)
        if pads is None:
            continue
        own = pair(node.attrs.get("padding", 0), count) * 2
        whole = tuple(a + b for a, b in zip(own, pads, strict=True))
        attrs: dict[str, Any] = {**node.attrs, "padding": whole}
        args = (data, *node.args[1:])
        new = graph.add(node.op, *args, type=node.type, where=node.where, before=node, **attrs)
        graph.supersede(node, new)


def _zeros(value: Arg, count: int) -> list[int] | None:
    """How many zeros are put before and after each spatial axis, ``count`` and ``count``."""
    match value:
        case Node("constant_pad_nd") if not value.attrs.get("value"):
            pad = value.attrs["pad"]
        case _:
            return None
    whole = all(isinstance(size, int) and size >= 0 for size in pad)
    if not whole or len(pad) > 2 * count or len(value.shape) != count + 2:
        return None
    pad = (*pad, *(0,) * (2 * count - len(pad)))  # the last axis comes first, as (before, after)
    return [*pad[-2::-2], *pad[::-2]]


def _unpadded(graph: Graph, data: Node) -> Node:
    """``dequantize(quantize(x))`` for ``dequantize(quantize(pad(x)))``."""
    codes: Node = data.args[0]
    source: Node = codes.args[0].args[0]
    made: Node = data
    for old in (codes, data):
        first = source if old is codes else made
        type_ = type(old.tensor)(old.tensor.dtype, source.shape)
        args = (first, *old.args[1:])
        made = graph.add(old.op, *args, type=type_, where=old.where, before=old, **old.attrs)
    return made
