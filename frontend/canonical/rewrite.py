"""How rules are applied: small functions from a node to the value that takes its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import torch

from ...ir import Graph, GraphError, Node, TensorType
from ...ir.graph import Arg
from ...ir.params import Lazy
from ...ir.types import Dim, Type


class At:
    """Adds nodes right before a node, with that node's place in the user's code."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph, self.node = graph, node

    def __call__(self, op: str, *args: Arg, type_: Type | None = None, **attrs: Arg) -> Node:
        while args and args[-1] is None:
            args = args[:-1]
        return self.graph.add(
            op, *args, type=type_, where=self.node.where, before=self.node, **attrs
        )

    def instead(self, op: str, *args: Arg, **attrs: Arg) -> Node:
        """A node that takes the place of this one, so it has its type."""
        return self(op, *args, type_=self.node.type, **attrs)

    def param(self, like: Node, value: torch.Tensor | Lazy) -> Node:
        """A parameter made from another; it is known to the user by the same names."""
        return self.graph.param(like.name, value, self.graph.store.origin[like.name])


# The value that takes the node's place; the node itself, changed in place; or ``None``: does not
# apply.
Rule: TypeAlias = Callable[[Node, At], Node | None]
Rules: TypeAlias = Mapping[str, Sequence[Rule]]


def on(ops: str, *rules: Rule) -> dict[str, tuple[Rule, ...]]:
    """The same rules for several ops, given as words."""
    return {op: rules for op in ops.split()}


def join(tables: Iterable[Rules]) -> dict[str, tuple[Rule, ...]]:
    """One table of all rules; those of the first table are tried first."""
    joined: dict[str, tuple[Rule, ...]] = {}
    for table in tables:
        for op, rules in table.items():
            joined[op] = (*joined.get(op, ()), *rules)
    return joined


def rewrite(graph: Graph, rules: Rules) -> bool:
    """Apply rules until none applies; returns whether any did.

    Raises:
        GraphError: Two rules undo each other, which is our own fault.
    """
    for sweep in range(200):
        changed = False
        for node in list(graph.nodes):
            if node.users and _apply(graph, node, rules.get(node.op, ())):
                changed = True
        graph.prune()  # what was made for a rule that then did not apply, too
        if not changed:
            return sweep > 0
    raise GraphError("the canonical form is not reached: two rules undo each other")


def _apply(graph: Graph, node: Node, rules: Sequence[Rule]) -> bool:
    for rule in rules:
        new = rule(node, At(graph, node))
        if new is not None:
            if new is not node:
                graph.replace(node, new)
            return True
    return False


# -- reading a node -----------------------------------------------------------------------------


def number(arg: Arg) -> int | float | None:
    """The number that an argument is: Python's own, or filled into a tensor without axes."""
    if isinstance(arg, Node):
        if arg.op == "full" and arg.attrs["size"] == ():
            return number(arg.attrs["fill_value"])
        return None
    return arg if isinstance(arg, (int, float)) else None


def sizes(node: Arg) -> tuple[Dim, ...]:
    """The shape of a tensor; of anything else, no axes."""
    return node.type.shape if isinstance(node, Node) and isinstance(node.type, TensorType) else ()


def axis(node: Node, operand: Node, default: int = 0, name: str = "dim") -> int:
    """An axis among the attributes, counted from the front of the operand."""
    return int(node.attrs.get(name, default)) % max(len(sizes(operand)), 1)


def is_param(arg: Arg, rank: int | None = None) -> bool:
    """Whether an argument is a weight, of this rank where one is given."""
    return isinstance(arg, Node) and arg.op == "param" and (rank is None or len(sizes(arg)) == rank)


def alone(node: Arg, op: str) -> bool:
    """Whether an argument is a node of this op with one reader, with which it goes."""
    return isinstance(node, Node) and node.op == op and len(node.users) == 1


def operand(node: Node, index: int) -> Arg:
    """The operand at a position, ``None`` where it is left out."""
    return node.args[index] if index < len(node.args) else None


def either(node: Node) -> tuple[tuple[Arg, Arg], tuple[Arg, Arg]]:
    """The two operands of a commutative op, both ways around."""
    first, second = node.args
    return (first, second), (second, first)
