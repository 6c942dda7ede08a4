"""Write ops that a target does not take in others that it takes.

Each of them is replaced by what ``equal`` says that it is, and what that is made of in its turn,
until all is taken; what two of them have in common is computed once. Comes after the passes that
look for symmetries, which know the laws of a norm or of attention and not those of its parts, and
before quantization, whose ranges are those of the parts. Exact; what has no equal stays, and is
named.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, field
from typing import ClassVar

from ...ir import Graph, InputError, Node, ops
from ...ir.merge import merge_equal
from ..base import Context, Pass, Remark, Stage, applied, missed
from .equal import EQUALS
from .writing import Apart, Ops


@dataclass(frozen=True)
class Legalize(Pass):
    """Replace ops by equal ones.

    Args:
        lacks: The names of ops that are not taken.
        masked: What scores of attention are that do not count. A range that is to hold them in few
            codes wants a number near those that count: at -50 they get e^-50 of the attention,
            where those are about zero.
    """

    lacks: frozenset[str] = field(repr=False)  # shown, it has another order in each process
    masked: float = -math.inf
    stage: ClassVar[Stage] = Stage.LEGALIZE

    def __post_init__(self) -> None:
        if unknown := sorted(self.lacks - ops.OPS.keys()):
            raise InputError(
                f"lacks names no op: {', '.join(map(repr, unknown))}",
                do=f"equals are known of {', '.join(sorted(EQUALS))}",
            )

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        remarks: list[Remark] = []
        pending = [node for node in graph.nodes if node.op in self.lacks]
        while pending:
            node = pending.pop()
            known = set(graph.nodes)
            try:
                found = self._equal(graph, node)
            except Apart as apart:
                remarks.append(missed(node, f"{node.op} is not taken by the target: {apart}"))
                continue
            if found is node:
                continue
            made = [new for new in graph.nodes if new not in known]
            graph.replace(node, found)
            graph.erase(node)
            pending += [new for new in made if new.op in self.lacks]
            kinds = ", ".join(dict.fromkeys(new.op for new in made))
            remarks.append(applied(found, f"{node.op} as {kinds}"))
        if any(remark.applied for remark in remarks):
            merge_equal(graph)
        return remarks

    def _equal(self, graph: Graph, node: Node) -> Node:
        equal = EQUALS.get(node.op)
        if equal is None:
            raise Apart("no equal of it is known")
        operands = {**ops.get(node.op).bind(node.args), **node.attrs}
        if more := operands.keys() - inspect.signature(equal).parameters.keys():
            raise Apart(f"no equal of it is known with {', '.join(sorted(more))}")
        return equal(Ops(graph, node, self.masked, self.lacks), node, **operands)
