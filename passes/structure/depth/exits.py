"""Further outputs after some of the repeated blocks, through the norm and the head behind the last
(early exits): with h_k what block k gives and g what makes the outputs of the last one's,

    y = g(h_L)    becomes    y, g(h_k1), g(h_k2), ...

The first output is what it was; the weights of g are those of all.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils import _pytree as pytree

from ....ir import Graph, InputError, Node
from ....ir.blocks import repeated
from ....ir.graph import Arg, substitute
from ...options import check_several
from .layers import downstream


def with_exits(graph: Graph, after: Sequence[int]) -> Graph:
    """A copy that gives a tuple: what the graph gives, and in the same form what it would give
    with so many of its blocks.

    Args:
        after: How many blocks each exit has, from 1 to one less than there are.

    Raises:
        InputError: There are no such blocks, or the outputs do not all come from the last one.
    """
    new = graph.copy()
    check_several(after, "after", 1)
    ends = [block.exit for block in repeated(new)]
    if wrong := [count for count in after if count not in range(1, len(ends))]:
        raise InputError(
            f"there is no exit after {wrong[0]} blocks: the graph has {len(ends)} repeated blocks",
            do=f"ask for exits after 1 to {len(ends) - 1}"
            if ends
            else "trace a model whose outputs all come from its last block, without a cache",
        )
    last = ends[-1]
    tail = downstream(new, last)
    for value in new.output.inputs:
        if value not in tail and value is not last:
            raise InputError(
                f"{value.name} is an output that does not come from the last block, {last.name}",
                where=value.at,
                do="trace a model that gives nothing else, such as one without a cache",
            )
    outputs = list(new.outputs)
    for count in after:
        end = ends[count - 1]
        if end.type != last.type:
            raise InputError(
                f"{end.name} is no {last.type}, which is what the head reads",
                where=end.at,
                do="ask for exits after blocks that give what the last one does",
            )
        outputs += _again(new, tail, {last: end})
    spec = graph.out_spec or pytree.tree_structure(tuple(graph.outputs))
    new.returns(*outputs)
    new.out_spec = pytree.TreeSpec(tuple, None, [spec] * (1 + len(after)))
    return new


def _again(graph: Graph, tail: Sequence[Node], given: dict[Node, Node]) -> list[Arg]:
    """The outputs once more, with other values in place of some."""
    made = dict(given)

    def swap(used: Node) -> Node:
        return made.get(used, used)

    for node in tail:
        args = substitute(node.args, swap)
        attrs = {key: substitute(value, swap) for key, value in node.attrs.items()}
        made[node] = graph.add(
            node.op, *args, name=node.name, type=node.type, where=node.where, **attrs
        )
    return [substitute(value, swap) for value in graph.outputs]
