"""Weights as codes between which and their reader there is nothing but a DequantizeLinear.

    linear(x, dequantize(W, t, w), b)   ->  ort.linear_codes(x, W, t, w, b)
    linear(x, decode(W, t), b)          ->  ort.linear_blocks(W, t, x, b)
    embedding(dequantize(W, t, w), ids) ->  ort.embedding_codes(W, t, w, ids)

What is read stays behind a DequantizeLinear of its own, which who reads the model fuses with that.
"""

from __future__ import annotations

from ....ir import Graph
from . import blocks, quantized


def fuse(graph: Graph) -> None:
    blocks.fuse(graph)
    quantized.fuse_weights(graph)
