"""Attention in one form: ``scaled_dot_product_attention`` on ``[B, H, S, D]``.

    matmul(softmax(s q k^T + m), v)            ->  attention(q, k, v, m, scale=s)
    where(c, s q k^T, -3.4e38)                 ->  s q k^T + where(c, 0, -3.4e38)
    attention(q, repeated k, repeated v)       ->  attention(q, k, v, enable_gqa=True)

Keys and values that several heads share stay un-repeated: every runtime takes them so, and it is
what they are stored as. The scale is always stated, because the default follows the width of the
heads, which a pass may change.

Heads that were merged with the batch for ``bmm`` are split again first: a ``reshape`` that splits
the first axis moves towards the operands, through products and sums, until it meets the one that
merged it.
"""

from __future__ import annotations

import math

from ...ir import Node, TensorType
from ...ir.graph import Arg
from ...ir.types import Dim
from .broadcast import broadcast
from .indices import LOWEST
from .rewrite import At, Rules, alone, number, on, sizes


def _turned(arg: Arg) -> tuple[Node, tuple[int, ...]] | None:
    """Of what, and how, ``k`` is a permutation, where the argument is ``k`` transposed."""
    match arg:
        case Node("permute", (Node() as inner,)) if len(sizes(arg)) >= 2:
            *rest, last, other = arg.attrs["dims"]
            return inner, (*rest, other, last)
        case _:
            return None


def _softmax(arg: Arg) -> Node | None:
    """The scores of a softmax over keys that only this product reads."""
    if isinstance(arg, Node) and alone(arg, "to") and arg.tensor.dtype.is_floating_point:
        arg = arg.args[0]  # probabilities taken in float32 and rounded to the dtype of the values
    if not alone(arg, "softmax") or not isinstance(arg, Node):
        return None
    scores = arg.args[0]
    same = arg.attrs.get("dtype", scores.dtype) == scores.dtype or scores.dtype.itemsize < 4
    return scores if same and arg.attrs["dim"] in (-1, len(sizes(arg)) - 1) else None


def _scores(scores: Node) -> tuple[Node, list[tuple[Node, float]], float] | None:
    """The product of queries and keys, what is added to it (with a factor), and the scale."""
    masks: list[tuple[Node, float]] = []
    scale = 1.0
    node: Arg = scores
    while isinstance(node, Node) and (len(node.users) == 1):
        if node.op == "matmul" and _turned(node.args[1]) is not None:
            return node, masks, scale
        if (
            node.op in ("mul", "div")
            and (factor := number(node.args[1]))
            and "rounding_mode" not in node.attrs
        ):
            scale = scale * factor if node.op == "mul" else scale / factor
            node = node.args[0]
        elif node.op == "add" and isinstance(node.args[1], Node):
            node, mask = _sides(node)
            masks.append((mask, scale))
        elif node.op == "to" and node.tensor.dtype.is_floating_point:
            node = node.args[0]
        else:
            return None
    return None


def _sides(node: Node) -> tuple[Node, Node]:
    """The scores and the mask of a sum; the scores are what leads to a product."""
    left, right = node.args
    return (left, right) if _leads_to_product(left) else (right, left)


def _leads_to_product(arg: Arg, depth: int = 4) -> bool:
    if not isinstance(arg, Node) or not depth:
        return False
    if arg.op == "matmul":
        return True
    return arg.op in ("mul", "div", "add", "to") and any(
        _leads_to_product(a, depth - 1) for a in arg.args
    )


def _raised(node: Node, at: At) -> Node | None:
    weights, value = node.args
    scores = _softmax(weights)
    found = _scores(scores) if scores is not None else None
    if found is None or len(sizes(value)) != 4:
        return None
    product, masks, scale = found
    query, turned = product.args
    keys = (*sizes(turned)[:2], *sizes(turned)[:1:-1])
    same = len(sizes(query)) == 4 and query.dtype == turned.dtype == value.dtype == node.dtype
    shared = keys[1] == 1  # one head of keys for all
    if not same or sizes(query)[: 1 if shared else 2] != keys[: 1 if shared else 2]:
        return None
    if keys[:3] != sizes(value)[:3]:
        return None
    if any(m.dtype != query.dtype or not _broadcasts(m, product) for m, _ in masks):
        return None
    inner, dims = _turned(turned) or (turned, ())
    key = at("permute", inner, dims=dims)
    attrs = {"scale": scale, **({"enable_gqa": True} if keys[1] != sizes(query)[1] else {})}
    mask = _sum(at, masks)
    return at.instead("scaled_dot_product_attention", query, key, value, mask, **attrs)


def _sum(at: At, masks: list[tuple[Node, float]]) -> Node | None:
    """The masks, each with its factor, as one."""
    total: Node | None = None
    for mask, factor in masks:
        scaled = mask if factor == 1 else at("mul", mask, factor, type_=mask.type)
        if total is None:
            total = scaled
        else:
            type_ = TensorType(mask.dtype, broadcast(sizes(total), sizes(scaled)))
            total = at("add", scaled, total, type_=type_)
    return total


def _additive(node: Node, at: At) -> Node | None:
    """Scores that are replaced where they are forbidden: a mask that is added does the same.

    What is 1e30 below the others, or more, has weight 0, and is as far below when it is added to.
    But where two masks forbid, the sum is lower still, which a query that may see nothing at all
    can tell: so what was added before must be of moderate size.
    """
    condition, scores, low = node.args if node.op == "where" else (node.args[i] for i in (1, 0, 2))
    value = number(low)
    if value is None or value > LOWEST or not isinstance(condition, Node):
        return None
    if not isinstance(scores, Node) or len(scores.users) != 1 or scores.type != node.type:
        return None
    found = _scores(scores) if len(sizes(node)) == 4 and _read_by_softmax(node) else None
    if found is None or not all(_moderate(mask) for mask, _ in found[1]):
        return None
    zero = at("full", size=(), fill_value=0.0, dtype=node.dtype)
    branches = (zero, value) if node.op == "where" else (value, zero)
    mask = at("where", condition, *branches, type_=TensorType(node.dtype, sizes(condition)))
    return at.instead("add", scores, mask)


def _moderate(value: Node) -> bool:
    """Whether a value is made of weights, positions and numbers alone, none of them forbidding."""
    seen: set[Node] = set()
    stack = [value]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        numbers = [number(arg) for arg in (node, *node.args)]
        if any(n is not None and n <= LOWEST for n in numbers):
            return False
        if node.op in ("input", "where", "masked_fill", "log"):
            return False
        stack.extend(node.inputs)
    return True


def _read_by_softmax(node: Node, depth: int = 3) -> bool:
    """Whether all that becomes of a value is, behind sums and factors, a softmax."""
    if len(node.users) != 1 or not depth:
        return False
    (user,) = node.users
    through = user.op in ("add", "mul", "div", "to", "where", "masked_fill")
    return user.op == "softmax" or (through and _read_by_softmax(user, depth - 1))


def _broadcasts(mask: Node, product: Node) -> bool:
    return len(sizes(mask)) <= 4 and broadcast(sizes(mask), sizes(product)) == sizes(product)


# -- the form of the op itself ------------------------------------------------------------------


def _scale(node: Node, at: At) -> Node | None:
    """State the scale, and leave out what is not there."""
    width = sizes(node.args[0])[-1]
    if node.attrs.get("scale") is not None or not isinstance(width, int):
        return None
    attrs = {key: value for key, value in node.attrs.items() if key != "scale"}
    node.set(None, {"scale": 1 / math.sqrt(width), **attrs})
    return node


def _shared(arg: Arg) -> tuple[Node, Dim] | None:
    """``k`` and how often, where the argument repeats each head of ``k``."""
    match arg:
        case Node(
            "reshape", (Node("expand", (Node("unsqueeze", (Node() as k,)) as lifted,)) as wide,)
        ):
            heads = (sizes(wide)[:2], sizes(wide)[3:]) == (sizes(k)[:2], sizes(k)[2:])
            fits = len(sizes(k)) == 4 and lifted.attrs["dim"] == 2 and heads
            merged = (
                len(sizes(arg)) == 4
                and sizes(arg)[2:] == sizes(k)[2:]
                and sizes(arg)[0] == sizes(k)[0]
            )
            return (k, sizes(wide)[2]) if fits and merged else None
        case Node("repeat_interleave", (Node() as k,)):
            count = arg.attrs.get("repeats")
            fits = arg.attrs.get("dim") in (1, -3) and len(sizes(k)) == 4
            return (k, count) if fits and isinstance(count, int) else None
        case Node("expand", (Node() as k,)):
            one = len(sizes(k)) == 4 and sizes(k)[1] == 1 and sizes(k)[2:] == sizes(arg)[2:]
            return (k, sizes(arg)[1]) if one and sizes(k)[0] == sizes(arg)[0] else None
        case _:
            return None


def _grouped(node: Node, at: At) -> Node | None:
    query, key, value, *mask = node.args
    keys, values = _shared(key), _shared(value)
    if keys is None or values is None or keys[1] != values[1] or node.attrs.get("enable_gqa"):
        return None
    node.set((query, keys[0], values[0], *mask), {**node.attrs, "enable_gqa": True})
    return node


# -- heads merged with the batch ----------------------------------------------------------------


def _splits(node: Node) -> bool:
    """``[B*H, m, n] -> [B, H, m, n]``"""
    before, after = sizes(node.args[0]), sizes(node)
    return len(before) == 3 and len(after) == 4 and before[1:] == after[2:]


def _merges(arg: Arg, shape: tuple[Dim, ...] | None = None) -> bool:
    """``[B, H, m, n] -> [B*H, m, n]``"""
    if not (isinstance(arg, Node) and arg.op == "reshape"):
        return False
    before, after = sizes(arg.args[0]), sizes(arg)
    fits = len(before) == 4 and len(after) == 3 and before[2:] == after[1:]
    return fits and (shape is None or before[:2] == shape)


def _leads_to_merge(arg: Arg, heads: tuple[Dim, ...], depth: int = 4) -> bool:
    if not isinstance(arg, Node) or not depth:
        return False
    if _merges(arg, heads):
        return True
    through = arg.op in ("mul", "div", "add", "softmax", "matmul", "permute", "to")
    return through and any(_leads_to_merge(a, heads, depth - 1) for a in arg.args[:2])


def _split_before(node: Node, at: At) -> Node | None:
    """Split the operands instead of the result."""
    inner = node.args[0]
    if not (_splits(node) and isinstance(inner, Node) and len(inner.users) == 1):
        return None
    heads = sizes(node)[:2]
    if inner.op == "permute" and inner.attrs["dims"] == (0, 2, 1) and _merges(inner.args[0], heads):
        return at.instead("permute", inner.args[0].args[0], dims=(0, 1, 3, 2))
    if inner.op not in ("mul", "div", "add", "softmax", "matmul", "to"):
        return None
    if not _leads_to_merge(inner, heads, depth=5):
        return None
    args = [_split(at, arg, heads, node) for arg in inner.args]
    if any(arg is None for arg in args):
        return None
    attrs = dict(inner.attrs)
    if inner.op == "softmax":
        attrs["dim"] = -1 if attrs["dim"] in (-1, 2) else None
        if attrs["dim"] is None:
            return None
    return at.instead(inner.op, *args, **attrs)


def _split(at: At, arg: Arg, heads: tuple[Dim, ...], node: Node) -> Arg:
    """One operand with its first axis split."""
    if not isinstance(arg, Node) or len(sizes(arg)) < 3:
        return arg if len(sizes(arg)) < 2 else None
    if _merges(arg, heads):
        return arg.args[0]
    shape = sizes(arg)
    if arg.op == "permute" and arg.attrs["dims"] == (0, 2, 1) and _merges(arg.args[0], heads):
        return at("permute", arg.args[0].args[0], dims=(0, 1, 3, 2))
    if arg.op == "repeat" and arg.attrs["repeats"][1:] == (1,) * (len(shape) - 1):
        if sizes(arg.args[0])[0] == heads[1] and len(sizes(arg.args[0])) == len(shape):
            return at("unsqueeze", arg.args[0], dim=0)  # once for each of the batch
    if shape[0] == 1:
        return at("unsqueeze", arg, dim=0)
    if shape[0] != sizes(node.args[0])[0]:
        return None
    type_ = TensorType(arg.tensor.dtype, (*heads, *shape[1:]))
    given = node.attrs["shape"]
    if shape[1:] == sizes(node)[2:]:
        return at("reshape", arg, type_=type_, shape=given)
    target = tuple(-1 if isinstance(size, str) else size for size in type_.shape)
    return at("reshape", arg, type_=type_, shape=target) if target.count(-1) <= 1 else None


RULES: Rules = {
    **on("matmul", _raised),
    **on("where masked_fill", _additive),
    **on("scaled_dot_product_attention", _scale, _grouped),
    **on("reshape", _split_before),
}
