"""Whether several experts can be one where the numbers that a router chose are those of clusters.

A value that was made of the numbers has a part v_e for each expert. With clusters it has parts v_C,

    apart   at each place v_e is what it is for e where e was chosen there, else one for all
    sums    v_C = sum over e in C of v_e
    ends    where the rows of an expert end among those of all, sorted by their numbers

and with a row that takes two experts of a cluster only what adds up has that one twice. What joins
the parts, then, is proven op by op to be the same, or refused, by the op that counts a cluster
once.
"""

from __future__ import annotations

from typing import Final

from ....ir import Node, ops
from ....ir.gauge.region import operands
from ....ir.laws import Cast, GroupedContract, Movement, Port, Reduce
from .holding import COMPARISONS, NUMBERS, POINTWISE, Held, Holding, Terms, reduced, refuse

APART: Final = "apart"
SUMS: Final = "sums"
ENDS: Final = "ends"
_ONCE = "a row that takes two experts of one cluster would have that one once"


def check_joined(holding: Holding) -> None:
    """Raise ``Refused`` where a cluster of equal experts would not give what they did together.

    Args:
        holding: All that the numbers of the experts reach.
    """
    kinds: dict[Node, str] = {}
    for node in holding.graph.nodes:
        if node.op == "getitem":
            continue
        read = {port: kinds[value] for port, value in operands(node).items() if value in kinds}
        kind = _joined(holding, node, read) if read else _marked(holding, node)
        if kind is not None and isinstance(holding.state(node), Held | Terms):
            kinds[node] = kind


def _marked(holding: Holding, node: Node) -> str | None:
    """What an op makes of the numbers; ``None`` where that has no place for each expert."""
    by_number = any(holding.state(value) == NUMBERS for value in operands(node).values())
    if not by_number or not isinstance(holding.state(node), Held):
        return None
    if node.op == "scatter":
        refuse(node, "two experts of one cluster would overwrite each other")
    return APART if node.op in ("eq", "ne", "aten.one_hot.default") else SUMS


def _joined(holding: Holding, node: Node, read: dict[Port, str]) -> str | None:
    """What an op makes of such values; ``None`` where it takes them together."""
    law, kinds = ops.get(node.op).law, set(read.values())
    alone = kinds.pop() if len(read) == 1 else None
    match law:
        case _ if isinstance(holding.state(node), Terms) or node in holding.terms:
            _need_sums(holding, node, read)
            return SUMS
        case Movement() if alone is not None:
            return alone
        case GroupedContract() if read == {(2,): ENDS}:
            return None
        case _ if alone == ENDS:
            return alone if isinstance(law, Cast) else refuse(node, _ONCE)
        case Reduce() if not law.window and alone is not None:
            return _reduced(holding, node, read)
        case _ if node.op in ("any", "all") and alone is not None:
            return _reduced(holding, node, read)
        case _ if node.op == "cumsum":
            _need_sums(holding, node, read)
            held = holding.held(node)[(0,)]
            rank = held.labels.dim()
            return ENDS if int(node.attrs["dim"]) % rank - rank in held.axes else SUMS
        case _ if isinstance(law, POINTWISE) or node.op in COMPARISONS:
            return APART if alone == APART else _added(holding, node, read)
        case _ if holding.letters(node) is not None and alone is not None:
            _need_sums(holding, node, read)
            return SUMS if (2,) not in read else refuse(node, _ONCE)
        case _:
            return refuse(node, _ONCE)


def _added(holding: Holding, node: Node, read: dict[Port, str]) -> str:
    """Pointwise ops of sums that give sums."""
    linear = {
        "add": len(read) == len(node.args),
        "sub": len(read) == len(node.args),
        "mul": len(read) == 1,
        "div": read.keys() == {(0,)},
        "neg": True,
        "to": node.dtype.is_floating_point or not node.args[0].dtype.is_floating_point,
    }
    if not linear.get(node.op, False) or (node.op == "to" and node.dtype.itemsize == 1):
        refuse(node, _ONCE)
    _need_sums(holding, node, read)
    return SUMS


def _reduced(holding: Holding, node: Node, read: dict[Port, str]) -> str | None:
    held = holding.held(node)[(0,)]
    shape = holding.shape(node.args[0])
    rank = len(shape)
    over = {axis - rank for axis in reduced(node) if shape[axis] > 1}
    if read[(0,)] == APART and over <= set(held.axes):  # at each place one expert was chosen
        return APART
    if node.op not in ("sum", "mean"):
        refuse(node, _ONCE)
    _need_sums(holding, node, read)
    return SUMS


def _need_sums(holding: Holding, node: Node, read: dict[Port, str]) -> None:
    """Values that are apart add up if they are zero where their expert was not chosen."""
    for port, kind in read.items():
        state = holding.state(operands(node)[port])
        zero = isinstance(state, Held) and state.gone == 0
        if kind == ENDS or (kind == APART and not zero):
            refuse(node, _ONCE)
