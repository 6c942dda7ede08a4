"""Groups of ops for which ONNX or ONNX Runtime has one op, each made one node before the lowering.

The nodes are called ``ort.*``; they exist only in the copy that is lowered, and no rule changes
what the graph computes.
"""

from ....ir import Graph
from ..dialect import Dialect
from . import attention, blocks, cached, last, packed, padding, pairs, quantized, residual, rotary


def fuse(graph: Graph, dialect: Dialect) -> Graph:
    """A copy of the graph in the forms of who reads it."""
    new = graph.copy()
    caches = (cached, last) if dialect.runtime else ()
    codes = (quantized, blocks, residual) if dialect.runtime else (pairs,)
    joined = (packed,) if dialect.runtime else ()
    for form in (rotary, *caches, attention, padding, *codes, *joined):
        form.fuse(new)
        new.prune()
    return new


__all__ = ["fuse"]
