"""Masks that positions decide, and what is computed under a mask that allows everything.

    x >= 0 for positions x                              ->  true
    and(true, m), or(false, m)                           ->  m
    where(true, a, b), masked_fill(a, false, v)          ->  a
    attention(q, k, v, true)                             ->  attention(q, k, v)
    attention(q, k, v, [k <= q])                         ->  attention(q, k, v, is_causal=True)
    attention(q, k, v, where([k <= q], 0, -3.4e38))      ->  attention(q, k, v, is_causal=True)
    to(cumsum(full(1.0)) - 1, i64)                       ->  arange
    index(x, (arange along 0, arange along 1))           ->  x, with axes of size 1 between
    index(x, (None, [2, 3, 4]))                          ->  x[:, 2:5]

The mask of numbers is exact: a score lowered by 1e30 or more has weight 0, and each query may see
at least itself.
"""

from __future__ import annotations

from typing import Any

import torch

from ...ir import Graph, Node, TensorType
from ...ir.graph import Arg
from .indices import FALSE, LOWEST, TRUE, Affine, analyse, decided
from .order import size_node
from .rewrite import number, sizes


def simplify(graph: Graph) -> bool:
    """Apply all of the above once; returns whether anything changed."""
    known = analyse(graph)
    changed = False
    for node in list(graph.nodes):
        if not node.users:
            continue
        new = _simpler(graph, node, known)
        if new is not None and new is not node:
            graph.replace(node, new)
        changed |= new is not None
    graph.prune()  # what was made for a rule that then did not apply, too
    return changed


def _simpler(graph: Graph, node: Node, known: dict[Node, Affine]) -> Node | None:
    match node.op:
        case "logical_and" | "logical_or":
            return _kept(graph, node, known)
        case "where":
            return _branch(graph, node, known)
        case "masked_fill":
            truth = known.get(node.args[1])
            return node.args[0] if truth == FALSE.aligned(len(sizes(node.args[1]))) else None
        case "scaled_dot_product_attention":
            return _attention(node, known)
        case "index":
            return (
                _rows(graph, node, known)
                or _run(graph, node, known)
                or _constant(graph, node, known)
            )
        case "to":
            return _positions(graph, node, known) or _constant(graph, node, known)
        case _:
            return _constant(graph, node, known)


def _is(arg: Arg, truth: Affine, known: dict[Node, Affine]) -> bool:
    return isinstance(arg, Node) and known.get(arg) == truth.aligned(len(sizes(arg)))


def _kept(graph: Graph, node: Node, known: dict[Node, Affine]) -> Node | None:
    """The other operand of ``and(true, m)`` and ``or(false, m)``."""
    neutral = TRUE if node.op == "logical_and" else FALSE
    left, right = node.args
    for mask, other in ((left, right), (right, left)):
        if (
            _is(mask, neutral, known)
            and isinstance(other, Node)
            and other.tensor.dtype == torch.bool
        ):
            return _to_shape(graph, other, node)
    return _constant(graph, node, known)


def _branch(graph: Graph, node: Node, known: dict[Node, Affine]) -> Node | None:
    condition, yes, no = node.args
    for truth, branch in ((TRUE, yes), (FALSE, no)):
        if _is(condition, truth, known) and isinstance(branch, Node) and branch.dtype == node.dtype:
            return _to_shape(graph, branch, node)
    return _constant(graph, node, known)


def _to_shape(graph: Graph, value: Node, node: Node) -> Node | None:
    """The value broadcast to the node's shape."""
    if sizes(value) == sizes(node):
        return value
    before = (None,) * (len(sizes(node)) - len(sizes(value))) + sizes(value)
    size: list[Any] = []
    for old, new in zip(before, sizes(node), strict=True):
        entry = -1 if old == new else new if isinstance(new, int) else size_node(graph, new, node)
        if entry is None:
            return None
        size.append(entry)
    return graph.add(
        "expand", value, before=node, where=node.where, type=node.type, size=tuple(size)
    )


def _constant(graph: Graph, node: Node, known: dict[Node, Affine]) -> Node | None:
    """A value that is the same everywhere, as one number expanded."""
    form = known.get(node)
    if form is None or not form.is_constant or node.op in ("full", "expand"):
        return None
    if node.dtype.is_floating_point:
        return None
    one = (1,) * len(sizes(node))
    fill = form.constant >= 0 if node.dtype == torch.bool else form.constant
    type_ = TensorType(node.dtype, one)
    full = graph.add("full", before=node, where=node.where, type=type_, size=one, fill_value=fill,
                     dtype=node.dtype)  # fmt: skip
    return _to_shape(graph, full, node)


def _rows(graph: Graph, node: Node, known: dict[Node, Affine]) -> Node | None:
    """Each position once, in order: only axes of size 1 come in between."""
    source, indices = node.args
    forms = [known.get(index) if isinstance(index, Node) else None for index in indices]
    if len(forms) != len(sizes(source)):
        return None
    axes: list[int] = []
    ones: list[int] = []  # the axes of the source along which there is one position
    for dim, (form, size) in enumerate(zip(forms, sizes(source), strict=True)):
        if form is None or form.constant:
            return None
        if size == 1 and not any(form.strides):
            ones.append(dim)
            continue
        moving = [d for d, stride in enumerate(form.aligned(len(sizes(node))).strides) if stride]
        if len(moving) != 1 or max(form.strides) != 1 or sizes(node)[moving[0]] != size:
            return None
        axes.append(moving[0])
    rest = [d for d in range(len(sizes(node))) if d not in axes]
    if axes != sorted(set(axes)) or any(sizes(node)[d] != 1 for d in rest):
        return None
    value = source
    for dim in reversed(ones):
        value = graph.add("squeeze", value, before=node, where=node.where, dim=dim)
    for dim in rest:
        value = graph.add("unsqueeze", value, before=node, where=node.where, dim=dim)
    return value


def _run(graph: Graph, node: Node, known: dict[Node, Affine]) -> Node | None:
    """Positions along one axis that follow each other, as a slice."""
    source, indices = node.args
    given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if len(given) != 1 or len(sizes(given[0][1])) != 1:
        return None
    dim, index = given[0]
    form, count, size = known.get(index), sizes(index)[0], sizes(source)[dim]
    if form is None or not isinstance(count, int) or not isinstance(size, int):
        return None
    start = form.constant + size if form.constant < 0 else form.constant
    if index.dtype == torch.bool or (form.strides[0] != 1 and count != 1) or start + count > size:
        return None
    return graph.add("slice", source, before=node, where=node.where, type=node.type, dim=dim,
                     start=start, end=start + count)  # fmt: skip


def _positions(graph: Graph, node: Node, known: dict[Node, Affine]) -> Node | None:
    """Positions that were counted in floating point."""
    form, before = known.get(node), node.args[0].tensor.dtype
    if form is None or not before.is_floating_point or node.dtype.is_floating_point:
        return None
    axes = [d for d, stride in enumerate(form.strides) if stride]
    if len(axes) != 1 or form.strides[axes[0]] != 1:
        return None
    size = node.shape[axes[0]]
    end = size if isinstance(size, int) else size_node(graph, size, node)
    if end is None:
        return None

    def add(op: str, *args: Arg, **attrs: Any) -> Node:
        return graph.add(op, *args, before=node, where=node.where, **attrs)

    value = add("arange", end=end, dtype=node.dtype, type=TensorType(node.dtype, (size,)))
    if form.constant:
        value = add("add", value, form.constant)
    for dim in range(len(form.strides)):
        if dim != axes[0]:
            value = add("unsqueeze", value, dim=dim)
    return _to_shape(graph, value, node)


# -- attention ----------------------------------------------------------------------------------


def _attention(node: Node, known: dict[Node, Affine]) -> Node | None:
    mask = node.operand(3)
    allowed = _allowed(mask, known)
    if allowed is None or len(allowed.strides) < 2:
        return None
    assert isinstance(mask, Node)
    scores = (sizes(node.args[0])[-2], sizes(node.args[1])[-2])
    rank = len(allowed.strides)
    attrs = dict(node.attrs)
    if (
        allowed == Affine(0, (*(0,) * (rank - 2), 1, -1))
        and sizes(mask)[-2:] == scores == scores[::-1]
    ):
        attrs["is_causal"] = True
    elif allowed != TRUE.aligned(rank) or attrs.get("is_causal"):
        return None
    node.set(node.args[:3], attrs)
    return node


def _allowed(mask: Arg, known: dict[Node, Affine]) -> Affine | None:
    """Where a mask lets a query see a key; a mask of numbers adds 0 there and forbids the rest."""
    if not isinstance(mask, Node):
        return None
    if mask.tensor.dtype == torch.bool:
        return known.get(mask)
    if _zero(mask):
        return TRUE.aligned(len(sizes(mask)))
    match mask:
        case Node("where", (Node() as condition, yes, no)) if condition in known:
            form, rank = known[condition], len(sizes(mask))
            if _zero(yes) and _forbidden(no):
                return form.aligned(rank)
            if _forbidden(yes) and _zero(no):
                return decided(form.times(-1).plus(Affine(-1, ())).aligned(rank), sizes(mask))
            return None
        case Node("masked_fill", (zero, Node() as condition, fill)) if condition in known:
            form, rank = known[condition], len(sizes(mask))
            if _zero(zero) and _forbidden(fill):
                return decided(form.times(-1).plus(Affine(-1, ())).aligned(rank), sizes(mask))
            return None
        case Node("mul", (Node() as inner, int() | float() as factor)) if 1e-4 <= factor <= 1e4:
            return _allowed(inner, known)  # still far below what scores there are
        case Node("expand", (Node() as inner,)):
            form = _allowed(inner, known)
            return form and form.aligned(len(sizes(mask)))
        case Node("unsqueeze", (Node() as inner,)):
            form, dim = _allowed(inner, known), mask.attrs["dim"]
            return form and Affine(form.constant, (*form.strides[:dim], 0, *form.strides[dim:]))
        case _:
            return None


def _zero(arg: Arg) -> bool:
    if isinstance(arg, Node) and arg.op == "expand":
        arg = arg.args[0]
    if isinstance(arg, Node) and arg.op == "full":
        return arg.attrs["fill_value"] == 0
    return number(arg) == 0


def _forbidden(arg: Arg) -> bool:
    value = number(arg)
    if isinstance(arg, Node) and arg.op == "full":
        value = arg.attrs["fill_value"]
    return value is not None and value <= LOWEST
