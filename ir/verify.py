"""The rules that every graph keeps, checked after every pass."""

from __future__ import annotations

from . import ops
from .errors import GraphError
from .graph import Graph, Node
from .types import TensorType


def verify(graph: Graph) -> None:
    """Raise ``GraphError`` at the first broken rule.

    Names are unique; each node comes after what it reads, in this graph; readers are recorded; each
    op exists and gets its operands; no op changes its input or draws random numbers; every
    parameter has a tensor of its type.
    """
    seen: set[Node] = set()
    names: set[str] = set()
    for node in (*graph.inputs, *graph.params.values(), *graph.nodes, graph.output):
        if node.name in names:
            raise GraphError(f"two nodes are called {node.name}", where=node.at)
        names.add(node.name)
        for used in node.inputs:
            if used not in seen:
                raise GraphError(f"{node.name} reads {used.name} before it is made", where=node.at)
            if node not in used.users:
                raise GraphError(f"{used.name} does not know its reader {node.name}", where=node.at)
        for user in node.users:
            if node not in user.inputs:
                raise GraphError(
                    f"{node.name} names {user.name} as a reader, which it is not", where=node.at
                )
        seen.add(node)
    for node in graph.nodes:
        _verify_op(node)
    for name, node in graph.params.items():
        if name not in graph.store:
            raise GraphError(f"the parameter {name} has no tensor", where=node.at)
        if graph.store.type(name) != node.type:
            raise GraphError(f"the tensor of {name} is {graph.store.type(name)}", where=node.at)


def _verify_op(node: Node) -> None:
    op = ops.get(node.op)
    if len(node.args) > len(op.operands):
        raise GraphError(f"{node.op} takes {', '.join(op.operands)}", where=node.at)
    if op.impure:
        raise GraphError(f"{node.op} {op.impure}, which a graph may not", where=node.at)
    if isinstance(node.type, TensorType) and any(
        isinstance(s, int) and s < 0 for s in node.type.shape
    ):
        raise GraphError(f"{node.name} has a negative size", where=node.at)
