"""Rows are not merged for ops that do not care: what is left of the last axis passes through.

    linear(reshape(x, (-1, n)), W)                   ->  reshape(linear(x, W), (-1, o))
    add(reshape(x, (-1, n)), reshape(y, (-1, n)))    ->  reshape(add(x, y), (-1, n))

and so for norms and elementwise ops, until the reshape meets the one that splits the rows again.
"""

from __future__ import annotations

from ...ir import Node, TensorType
from ...ir.graph import Arg
from ...ir.laws import Elementwise
from ...ir.ops import OPS
from ...ir.types import Dim
from .rewrite import At, Rules, number, on, sizes

_UNARY = " ".join(op.name for op in OPS.values() if isinstance(op.law, Elementwise))


def _source(arg: Arg) -> Node | None:
    """``x`` where the argument is ``x`` with all axes but the last merged."""
    match arg:
        case Node("reshape", (Node() as x,)) if len(sizes(arg)) == 2 < len(sizes(x)):
            return x if sizes(x)[-1] == sizes(arg)[-1] and isinstance(sizes(x)[-1], int) else None
        case _:
            return None


def _row_wise(node: Node, at: At) -> Node | None:
    """An op on the last axis, or on no axis at all."""
    x = _source(node.args[0])
    others = (*node.args[1:], *node.attrs.values())  # a limit may be a value as well
    if x is None or any(isinstance(arg, Node) and arg.op != "param" for arg in others):
        return None
    if any(len(sizes(arg)) > 1 for arg in others) and node.op != "linear":
        return None
    return _merged(node, at, (x, *node.args[1:]), sizes(x)[:-1])


def _pair(node: Node, at: At) -> Node | None:
    """An op on two values position by position."""
    sources = [_source(arg) for arg in node.args]
    found = [x for x in sources if x is not None]
    if not found or any(sizes(x) != sizes(found[0]) for x in found):
        return None
    for arg, source in zip(node.args, sources, strict=True):
        along_rows = isinstance(arg, Node) and arg.op == "param" and len(sizes(arg)) == 1
        if source is None and number(arg) is None and not along_rows:
            return None
    args = tuple(arg if x is None else x for arg, x in zip(node.args, sources, strict=True))
    return _merged(node, at, args, sizes(found[0])[:-1])


def _merged(node: Node, at: At, args: tuple[Arg, ...], leading: tuple[Dim, ...]) -> Node | None:
    rows, width = sizes(node)
    if not isinstance(width, int):
        return None
    type_ = TensorType(node.dtype, (*leading, width))
    inner = at(node.op, *args, type_=type_, **node.attrs)
    return at.instead("reshape", inner, shape=(rows if isinstance(rows, int) else -1, width))


RULES: Rules = {
    **on("linear layer_norm rms_norm", _row_wise),
    **on(_UNARY, _row_wise),
    **on("add sub mul div", _pair),
}
