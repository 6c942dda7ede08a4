"""Attention on values whose heads lie side by side, as linear layers give and take them.

    reshape(transpose(sdpa(split(q), split(k), split(v)), 1, 2))  ->  ort.attention(q, k, v)

with the repetition of grouped keys and values left out. The four transposes copy the values once
more each.
"""

from __future__ import annotations

from ....ir import Graph, Node, TensorType
from .heads import RESHAPES, is_split, side_by_side, strip, swapped, ungrouped


def fuse(graph: Graph) -> None:
    for node in list(graph.nodes):
        if node.op == "scaled_dot_product_attention" and _fits(node):
            _fuse(graph, node)
    for node in list(graph.nodes):
        _merge(graph, node)


def _fits(node: Node) -> bool:
    query, key, value = node.args[:3]
    heads = all(
        len(p.shape) == 4 and all(isinstance(p.shape[i], int) for i in (1, 3))
        for p in (query, key, value)
    )
    return heads and not node.attrs.get("dropout_p") and any(map(is_split, (query, key, value)))


def _fuse(graph: Graph, node: Node) -> None:
    query, key, value = node.args[:3]
    mask = node.operand(3)
    if not node.attrs.get("enable_gqa"):
        sources = ungrouped(key), ungrouped(value)
        if sources[0].shape[1] == sources[1].shape[1]:
            key, value = sources
    batch, heads, length, width = query.shape
    depth = int(value.shape[3])
    scale = node.attrs.get("scale")
    attention = graph.add(
        "ort.attention",
        *(side_by_side(graph, part, node) for part in (query, key, value)),
        mask,
        heads=heads,
        kv_heads=key.shape[1],
        scale=float(int(width) ** -0.5 if scale is None else scale),
        causal=bool(node.attrs.get("is_causal", False)),
        type=TensorType(node.dtype, (batch, length, int(heads) * depth)),
        where=node.where,
        before=node,
    )
    split = graph.add("ort.split_heads", attention, heads=heads, type=node.type, before=node)
    graph.supersede(node, split)


def _merge(graph: Graph, node: Node) -> None:
    """Let who merges the heads again read the value as it was before they were split."""
    if node.op not in RESHAPES or len(node.shape) != 3:
        return
    rows = swapped(strip(node.args[0]))
    if rows is None:
        return
    split = strip(rows)
    if split.op == "ort.split_heads" and split.args[0].shape == node.shape:
        graph.replace(node, split.args[0])
