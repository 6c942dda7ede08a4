"""What passes do about tied parameters: leave them tied, or say what a second copy costs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from ..ir import Graph, Node
from ..ir.gauge import Blocked, Region, Untied, ties_broken, transport
from ..ir.laws import Kind


def broken_tie(broken: Sequence[Untied]) -> str:
    """The sentence that says which ties would be broken, and at what cost; empty if none would."""
    if not broken:
        return ""
    names = ", ".join(tie.param for tie in broken)
    cost = sum(tie.bytes for tie in broken)
    return f"it would break the tie of {names}, at a cost of {cost:,} bytes"


def tie_in_the_way(graph: Graph, region: Region, untie: bool = False) -> str:
    """The sentence for the ties that applying a region would break, unless they may be broken."""
    return "" if untie else broken_tie(ties_broken(graph, region))


def transport_with_ties(
    graph: Graph, value: Node, kind: Kind, *, untie: bool, **options: Any
) -> tuple[Region | Blocked, list[Untied]]:
    """A transport that leaves tied parameters as they are where it can do without them.

    Gives with it the ties that the plain transport would break, unless they may be broken.
    """
    region = transport(graph, value, kind, **options)
    if untie or isinstance(region, Blocked) or not (broken := ties_broken(graph, region)):
        return region, []
    keep = [graph.params[tie.param] for tie in broken]
    return transport(graph, value, kind, keep=keep, **options), broken


def own(node: Node, index: int) -> Node | None:
    """The parameter at an operand, if nobody else reads it."""
    param = node.operand(index)
    alone = isinstance(param, Node) and param.op == "param" and len(param.users) == 1
    return param if alone and isinstance(param, Node) else None


def untied(graph: Graph, nodes: Iterable[Node], going: Collection[Node], size: int) -> list[Untied]:
    """What is stored twice where one weight of this size in bytes is put in for those of ``nodes``.

    Args:
        going: The nodes that go; weights that only they read go with them.
    """
    weights = dict.fromkeys(node.args[1] for node in nodes)
    kept = [weight for weight in weights if not all(user in going for user in weight.users)]
    freed = graph.store.bytes([weight.name for weight in weights if weight not in kept])
    cost = size - freed
    return [Untied(", ".join(weight.name for weight in kept), cost)] if kept and cost > 0 else []
