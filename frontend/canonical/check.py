"""What the canonical form promises to those who read a graph."""

from __future__ import annotations

from ...ir import Graph, GraphError, Node, TensorType
from .rewrite import sizes

# What never stands in a canonical graph, and what stands there instead.
REPLACED = {
    "clone": "its operand",
    "contiguous": "its operand",
    "transpose": "permute",
    "bmm": "matmul",
    "rsub": "sub",
    "aten.view.default": "reshape",
    "aten._unsafe_view.default": "reshape",
    "aten.alias.default": "its operand",
    "aten.detach.default": "its operand",
    "aten.t.default": "permute",
    "aten.mm.default": "matmul",
    "aten.addmm.default": "linear",
    "aten.baddbmm.default": "matmul",
    "aten.type_as.default": "to",
    "aten.split.Tensor": "slice",
    "aten.split_with_sizes.default": "slice",
    "aten.chunk.default": "slice",
    "aten.unbind.int": "select",
}
_AXES = {
    "permute": "dims",
    "slice": "dim",
    "select": "dim",
    "unsqueeze": "dim",
    "cat": "dim",
    "stack": "dim",
}


def check(graph: Graph) -> None:
    """Raise ``GraphError`` if a graph is not in canonical form."""
    for node in graph.nodes:
        if not node.users:
            raise GraphError(f"{node.name} is computed and nobody reads it", where=node.at)
        if node.op in REPLACED and not _excused(node):
            raise GraphError(f"{node.op} stands for {REPLACED[node.op]}", where=node.at)
        if node.op == "scaled_dot_product_attention" and "scale" not in node.attrs:
            raise GraphError(f"{node.name} does not state its scale", where=node.at)
        if node.attrs.get("dropout_p") or (node.attrs.get("dropout") and node.attrs.get("train")):
            raise GraphError(
                f"{node.name} drops weights at random, in evaluation too",
                where=node.at,
                do="pass dropout_p=0.0 unless self.training",
            )
        if node.op in _AXES:
            _check_axes(node)


def _excused(node: Node) -> bool:
    """A split at places that only a run tells."""
    if not isinstance(node.type, tuple):
        return False
    parts = [size for part in node.type if isinstance(part, TensorType) for size in part.shape]
    return any(isinstance(size, str) for size in (*sizes(node.args[0]), *parts))


def _check_axes(node: Node) -> None:
    dims = node.attrs.get(_AXES[node.op])
    dims = dims if isinstance(dims, tuple) else (dims,)
    if any(not isinstance(d, int) or d < 0 for d in dims):
        raise GraphError(f"{node.name} does not count its axes from the front", where=node.at)
    operand = node.args[0]
    if isinstance(operand, Node) and operand.type == node.type and node.op == "reshape":
        raise GraphError(f"{node.name} changes nothing", where=node.at)
