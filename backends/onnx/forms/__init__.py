"""Groups of ops for which ONNX Runtime has one fast kernel, each made one node before the lowering.

The nodes are called ``ort.*``; they exist only in the copy that is lowered, and no rule changes
what the graph computes.
"""

from ....ir import Graph
from . import attention, blocks, padding, quantized, residual, rotary


def fuse(graph: Graph) -> Graph:
    """A copy of the graph in the runtime's forms."""
    new = graph.copy()
    for form in (rotary, attention, padding, quantized, blocks, residual):
        form.fuse(new)
        new.prune()
    return new


__all__ = ["fuse"]
