"""Attention on caches that takes queries, keys and values in one tensor, and turns them itself.

    q, k, v = W x, V x, U x               ->  qkv = [W; V; U] x
    q, k, v = cut(y)                      ->  qkv = y
    cached_attention(rotary(q, c, s), rotary(k, c, s), v, ...)
                                          ->  cached_attention(qkv, None, None, ..., c, s)

One product reads the value once, and is not cut again, since the op of ONNX Runtime knows the
heads. It turns heads of a multiple of 16 by tables that all sequences share. A token of a small
model takes 0.94 of the time, most of which is that of calls which are no longer made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ....ir import Graph, Node, TensorType
from ....ir.graph import Arg

_TURNED = 16  # what the width of heads that the op turns is a multiple of
_BLOCKS, _JOINED = "ort.linear_blocks", "ort.linears_blocks"


@dataclass(frozen=True)
class _Parts:
    """Queries, keys and values before they are turned, and the tables by which they are."""

    values: tuple[Node, Node, Node]
    readers: tuple[Node, Node, Node]
    tables: tuple[Node, ...]


def fuse(graph: Graph) -> None:
    for node in list(graph.nodes):
        if node.op == "ort.cached_attention":
            parts = _turned(node) or _plain(node)
            whole = _cut(parts) or _join(graph, parts)
            if whole is not None:
                node.set((whole, None, None, *node.args[3:6], *parts.tables))


def _plain(attention: Node) -> _Parts:
    query, key, value = attention.args[:3]
    return _Parts((query, key, value), (attention, attention, attention), ())


def _turned(attention: Node) -> _Parts | None:
    query, key, value = attention.args[:3]
    heads = int(attention.attrs["heads"])
    match query, key:
        case Node("ort.rotary", (Node() as q, Node() as cos, Node() as sin)), Node(
            "ort.rotary", (Node() as k, *tables)
        ):
            pass
        case _:
            return None
    same = all(_same(one, other) for one, other in zip((cos, sin), tables, strict=True))
    wide = query.shape[-1] != heads * int(cos.shape[-1])
    if not same or wide or cos.shape[0] != 1 or int(cos.shape[-1]) % _TURNED:
        return None
    return _Parts((q, k, value), (query, key, attention), (cos, sin))


def _same(one: Node, other: Node) -> bool:
    """Whether two values are one, or made in the same way of one."""
    made = one.op == other.op and one.op in ("squeeze", "unsqueeze") and one.args == other.args
    return one is other or (made and one.attrs == other.attrs)


def _cut(parts: _Parts) -> Node | None:
    """What queries, keys and values are cut from, one behind the other and to the end."""
    whole, at = None, 0
    for value in parts.values:
        match value:
            case Node("slice", (Node() as source,)) if whole in (None, source):
                whole = source
            case _:
                return None
        axis = value.attrs.get("dim", 0) % len(value.shape)
        width = int(value.shape[-1])
        if axis != 2 or value.attrs.get("step", 1) != 1 or value.attrs.get("start") != at:
            return None
        at += width
    return whole if whole is not None and whole.shape[-1] == at else None


def _join(graph: Graph, parts: _Parts) -> Node | None:
    """One layer for the three that read one value, where nobody else reads them."""
    layers = parts.values
    first = layers[0]
    alone = all(
        list(node.users) == [reader] for node, reader in zip(layers, parts.readers, strict=True)
    )
    if not alone or len(set(layers)) != 3 or any(node.op != first.op for node in layers):
        return None
    if first.op == _BLOCKS:
        return _join_blocks(graph, layers)
    if first.op != "linear" or not _stored(layers, [1, 2]):
        return None
    if any(node.args[0] is not first.args[0] for node in layers):
        return None
    weight = graph.param(f"{first.name}_joined", _rows(graph, [node.args[1] for node in layers]))
    bias = _bias(graph, layers, 2)
    operands = (first.args[0], weight) if bias is None else (first.args[0], weight, bias)
    return _add(graph, "linear", operands, layers)


def _join_blocks(graph: Graph, layers: Sequence[Node]) -> Node | None:
    """Their codes are joined when they are brought to the form of the kernel."""
    first = layers[0]
    same = all(
        node.args[4] is first.args[4] and node.attrs["format"] == first.attrs["format"]
        for node in layers
    )
    if not same or not _stored(layers, [0, 1, 2, 3, 5]):
        return None
    weights = tuple(node.args[:4] for node in layers)
    shapes = tuple(node.attrs["shape"] for node in layers)
    bias = _bias(graph, layers, 5)
    args = (weights, first.args[4], bias)
    return _add(graph, _JOINED, args, layers, format=first.attrs["format"], shapes=shapes)


def _stored(layers: Sequence[Node], places: Sequence[int]) -> bool:
    """Whether these operands are parameters that nobody else reads."""
    held = [arg for node in layers for arg in map(node.operand, places) if isinstance(arg, Node)]
    return all(arg.op == "param" and len(arg.users) == 1 for arg in held)


def _bias(graph: Graph, layers: Sequence[Node], place: int) -> Node | None:
    if all(node.operand(place) is None for node in layers):
        return None
    return graph.param(f"{layers[0].name}_bias_joined", _rows(
        graph, [node.operand(place) for node in layers], [int(node.shape[-1]) for node in layers]
    ))  # fmt: skip


def _rows(graph: Graph, parts: Sequence[Arg], sizes: Sequence[int] = ()) -> torch.Tensor:
    """Parameters one behind the other; zeros where there is none."""
    return torch.cat([
        graph.value(part) if isinstance(part, Node) else torch.zeros(sizes[place])
        for place, part in enumerate(parts)
    ])  # fmt: skip


def _add(graph: Graph, op: str, args: Sequence[Arg], layers: Sequence[Node], **attrs: Arg) -> Node:
    first = min(layers, key=graph.nodes.index)
    width = sum(int(node.shape[-1]) for node in layers)
    type_ = TensorType(first.dtype, (*first.shape[:-1], width))
    return graph.add(op, *args, type=type_, where=first.where, before=first, **attrs)
