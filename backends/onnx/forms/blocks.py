"""Layers that read packed codes in blocks.

    linear(x, decode(W, t), b)      ->  ort.linear_blocks(W, t, x, b)
    embedding(decode(W, t), ids)    ->  ort.embedding_blocks(W, t, ids)

for weights in two axes of float32, in formats that the target has kernels for; the target refuses
others. Readers of one table share its codes.
"""

from __future__ import annotations

import torch

from ....ir import Graph, Node

_PLACES = {"linear": 1, "embedding": 0}


def fuse(graph: Graph) -> None:
    for node in list(graph.nodes):
        place = _PLACES.get(node.op)
        source = None if place is None else node.args[place]
        if place is None or not isinstance(source, Node) or source.op != "decode":
            continue
        if len(source.shape) != 2 or source.dtype != torch.float32:
            continue
        operands = [*source.args, *[None] * (4 - len(source.args))]
        others = [*node.args[:place], *node.args[place + 1 :]]
        new = graph.add(
            f"ort.{node.op}_blocks",
            *operands,
            *others,
            format=source.attrs["format"],
            shape=source.attrs["shape"],
            type=node.type,
            where=node.where,
            before=node,
        )
        graph.supersede(node, new)
