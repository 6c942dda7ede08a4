"""What does nothing goes: ``f(x) = x`` whatever x is.

    clone(x), detach(x), dropout(x, train=False), to(x, its own dtype)     ->  x
    add(x, 0), sub(x, 0), mul(x, 1), div(x, 1), pow(x, 1)                  ->  x
    reshape(x, its own shape), expand(x, its own shape), slice of all      ->  x
    permute(x, (0, 1, 2)), cat((x,)), repeat(x, (1, 1)), roll(x, 0)        ->  x
    neg(neg(x)), logical_not(logical_not(x))                              ->  x

The type of x must be the type of the result: ``add(x, 0.0)`` of integers makes floating-point
numbers.
"""

from __future__ import annotations

from ...ir import Node, TensorType
from .rewrite import At, Rules, number, on, sizes


def _always(node: Node, at: At) -> Node | None:
    return _same(node, node.args[0])


def _same(node: Node, value: object) -> Node | None:
    """The value, if it has the node's type."""
    return value if isinstance(value, Node) and value.type == node.type else None


def _dropout(node: Node, at: At) -> Node | None:
    training = node.attrs.get("train", True) and node.attrs.get("p", 0.5) != 0
    return None if training else _same(node, node.args[0])


def _neutral(node: Node, at: At) -> Node | None:
    """``x + 0``, ``0 + x``, ``x * 1``, ``1 * x``."""
    neutral = 0 if node.op == "add" else 1
    left, right = node.args
    if number(right) == neutral:
        return _same(node, left)
    return _same(node, right) if number(left) == neutral and "alpha" not in node.attrs else None


def _neutral_right(node: Node, at: At) -> Node | None:
    """``x - 0``, ``x / 1``, ``x ** 1``."""
    if number(node.args[1]) == (0 if node.op == "sub" else 1) and "rounding_mode" not in node.attrs:
        return _same(node, node.args[0])
    return None


def _shape_kept(node: Node, at: At) -> Node | None:
    """A reshape or an expansion to the shape that x has."""
    return _same(node, node.args[0])


def _all_of_it(node: Node, at: At) -> Node | None:
    """A slice with every position of the axis."""
    if isinstance(node.attrs.get("start") or 0, int) and (node.attrs.get("start") or 0) <= 0:
        if node.attrs.get("step", 1) == 1 and sizes(node) == sizes(node.args[0]):
            return _same(node, node.args[0])
    return None


def _order_kept(node: Node, at: At) -> Node | None:
    dims = node.attrs["dims"]
    rank = len(sizes(node))
    return node.args[0] if [d % rank for d in dims] == list(range(rank)) else None


def _one_part(node: Node, at: At) -> Node | None:
    (parts,) = node.args
    return _same(node, parts[0]) if len(parts) == 1 else None


def _once(node: Node, at: At) -> Node | None:
    """A repetition once, a roll by nothing, a padding by nothing."""
    amounts = node.attrs.get("repeats", node.attrs.get("shifts", node.attrs.get("pad", ())))
    neutral = 1 if node.op == "repeat" else 0
    amounts = amounts if isinstance(amounts, tuple) else (amounts,)
    return _same(node, node.args[0]) if all(n == neutral for n in amounts) else None


def _twice(node: Node, at: At) -> Node | None:
    """An op that is its own inverse, applied twice."""
    inner = node.args[0]
    return _same(node, inner.args[0]) if isinstance(inner, Node) and inner.op == node.op else None


def _narrowed_back(node: Node, at: At) -> Node | None:
    """A cast to a wider dtype and back: ``to(to(x, f32), f16)`` of x in f16."""
    inner = node.args[0]
    if not (isinstance(inner, Node) and inner.op == "to" and isinstance(inner.type, TensorType)):
        return None
    first = inner.args[0].tensor.dtype
    wide = inner.type.dtype
    if first.is_floating_point == wide.is_floating_point and first.itemsize < wide.itemsize:
        return _same(node, inner.args[0])
    return None


RULES: Rules = {
    **on(
        "clone contiguous to aten.alias.default aten.detach.default aten.lift_fresh_copy.default"
        " aten.lift_fresh.default aten.type_as.default aten.positive.default",
        _always,
    ),
    **on("dropout", _dropout),
    **on("add mul", _neutral),
    **on("sub div pow", _neutral_right),
    **on("reshape expand", _shape_kept),
    **on("slice", _all_of_it),
    **on("permute", _order_kept),
    **on("cat", _one_part),
    **on("repeat roll constant_pad_nd", _once),
    **on("neg logical_not", _twice),
    "to": (_always, _narrowed_back),
}
