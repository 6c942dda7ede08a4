"""Nothing is expanded before an op that would do so itself.

add(x, expand(y))           ->  add(x, y)                 where the result has the same shape
add(expand(y), 2)           ->  expand(add(y, 2))
embedding(w, expand(ids))   ->  expand(embedding(w, ids))
attention(q, k, v, expand(mask))  ->  attention(q, k, v, mask)
"""

from __future__ import annotations

from ...ir import Node, TensorType
from ...ir.graph import Arg
from ...ir.laws import Elementwise
from ...ir.ops import OPS
from ...ir.types import Dim
from .rewrite import At, Rules, on, sizes

_POINTWISE = (
    "add sub mul div where eq ne lt le gt ge logical_and logical_or bitwise_and bitwise_or "
    "maximum minimum pow"
    " floor_divide remainder masked_fill"
)
_UNARY = " ".join(op.name for op in OPS.values() if isinstance(op.law, Elementwise))


def _bare(arg: Arg) -> Arg:
    return arg.args[0] if isinstance(arg, Node) and arg.op == "expand" else arg


def broadcast(*shapes: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The shape that several have together."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(next((s for s in column if s != 1), 1) for column in zip(*padded, strict=True))


def _pointwise(node: Node, at: At) -> Node | None:
    bare = tuple(_bare(arg) for arg in node.args)
    if all(a is b for a, b in zip(bare, node.args, strict=True)):
        return None
    if any(isinstance(value, Node) for value in node.attrs.values()):
        return None  # a limit of the result's shape
    shape = broadcast(*(sizes(arg) for arg in bare if isinstance(arg, Node)))
    if shape == sizes(node):
        node.set(bare)
        return node
    wide = next(arg for arg in node.args if isinstance(arg, Node) and arg.op == "expand")
    if sizes(wide) != sizes(node):
        return None
    inner = at(node.op, *bare, type_=TensorType(node.tensor.dtype, shape), **node.attrs)
    return _widened(node, at, inner, wide)


def _widened(node: Node, at: At, inner: Node, wide: Node, more: int = 0) -> Node:
    """The inner value expanded to the node's shape, with the sizes ``wide`` was expanded to."""
    before = (None,) * (len(sizes(node)) - len(sizes(inner))) + sizes(inner)
    given = (*wide.attrs["size"], *(-1,) * more)
    size = tuple(
        -1 if b == a else a if isinstance(a, int) else g
        for b, a, g in zip(before, sizes(node), given, strict=True)
    )
    return at.instead("expand", inner, size=size)


def _embedding(node: Node, at: At) -> Node | None:
    weight, wide = node.args
    if not (isinstance(wide, Node) and wide.op == "expand"):
        return None
    shape = (*sizes(wide.args[0]), sizes(node)[-1])
    inner = at(
        "embedding", weight, wide.args[0], type_=TensorType(node.tensor.dtype, shape), **node.attrs
    )
    return _widened(node, at, inner, wide, more=1)


def _mask(node: Node, at: At) -> Node | None:
    given = node.operand(3)
    mask = _bare(given)
    if not isinstance(mask, Node) or mask is given or len(sizes(mask)) < 2:
        return None
    node.set((*node.args[:3], mask))
    return node


RULES: Rules = {
    **on(_POINTWISE, _pointwise),
    **on(_UNARY, _pointwise),
    **on("embedding", _embedding),
    **on("scaled_dot_product_attention", _mask),
}
