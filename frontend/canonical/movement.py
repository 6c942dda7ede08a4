"""Movement in one form: what it does to the axes can be read off its attributes.

    reshape(reshape(x))                ->  reshape(x)
    permute(permute(x))                ->  permute(x)
    unsqueeze(squeeze(x, d), d)        ->  x, and the other way around
    getitem(split(x, 32, dim), 1)      ->  slice(x, dim, 32, 64)       so chunk, split_with_sizes
    getitem(unbind(x, dim), 1)         ->  select(x, dim, 1)
    slice(slice(x, d, 4, 8), d, 1, 2)  ->  slice(x, d, 5, 6)
    slice(x, -1, 4, 2**63 - 1)         ->  slice(x, dim=3, start=4, end=8)
    slice(cat((x, y, z)), what x is)   ->  x                           so where y and z are wanted
    select(stack((x, y)), 1)           ->  y
    select(unsqueeze(x, d), d, 0)      ->  x
    select(permute(x), d, 1)           ->  permute(select(x, e, 1))
    squeeze(permute(x), d)             ->  permute(squeeze(x, e))      where x has that axis by an
                                           unsqueeze
    select(reshape(x), d, 1)           ->  reshape(slice(x, dim, 32, 64))   where d is one axis with
                                           those after it: queries, keys and values side by side
    slice_scatter(x, y, d, 2, 4)       ->  cat((x[:2], y, x[4:]))      so select_scatter
    expand_as(x, y)                    ->  expand(x)
    copy(x, y)                         ->  y, in the dtype and the shape of x

Axes are counted from the front. A ``reshape`` states each size that is a number, and -1 for one
that is not (the last one where there are several); an ``expand`` states the sizes that it changes,
and -1 for the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...ir import Node, TensorType
from ...ir.graph import Arg
from .rewrite import At, Rules, axis, on, operand, sizes

_END = 2**63 - 1


def _with(node: Node, **attrs: Arg) -> Node | None:
    """The node with these attributes and no others; ``None`` if it has them already."""
    if dict(node.attrs) == attrs and list(node.attrs) == list(attrs):
        return None
    node.set(None, attrs)
    return node


def told(shape: tuple[int | str, ...], given: tuple[Any, ...]) -> tuple[Any, ...]:
    """The sizes of a reshape: numbers, -1 for the last that is none, else what was given."""
    unknown = [i for i, size in enumerate(shape) if isinstance(size, str)]
    if not unknown or 0 in shape:
        return given if unknown else shape
    free = next((i for i in unknown if given[i] == -1), unknown[-1])
    return tuple(
        -1 if i == free else size if isinstance(size, int) else given[i]
        for i, size in enumerate(shape)
    )


def _told(node: Node, at: At) -> Node | None:
    return _with(node, shape=told(sizes(node), node.attrs["shape"]))


def _merged(node: Node, at: At) -> Node | None:
    """A reshape of what was reshaped before."""
    inner = node.args[0]
    if isinstance(inner, Node) and inner.op in ("reshape", "unsqueeze", "squeeze"):
        return at.instead("reshape", inner.args[0], shape=node.attrs["shape"])
    return None


def _composed(node: Node, at: At) -> Node | None:
    inner = node.args[0]
    if not (isinstance(inner, Node) and inner.op == "permute"):
        return None
    first = inner.attrs["dims"]
    dims = tuple(first[d] for d in node.attrs["dims"])
    return at.instead("permute", inner.args[0], dims=dims)


def _undone(node: Node, at: At) -> Node | None:
    """An axis of size 1 that is put in and taken out again."""
    inner = node.args[0]
    other = {"squeeze": "unsqueeze", "unsqueeze": "squeeze"}[node.op]
    if not (isinstance(inner, Node) and inner.op == other and inner.args[0].type == node.type):
        return None
    wide = node if node.op == "unsqueeze" else inner
    first, second = node.attrs.get("dim"), inner.attrs.get("dim")
    if not isinstance(first, int) or not isinstance(second, int):
        return None
    rank = len(sizes(wide))
    return inner.args[0] if first % rank == second % rank else None


def _expand(node: Node, at: At) -> Node | None:
    before = sizes(node.args[0])
    after = sizes(node)
    before = (None,) * (len(after) - len(before)) + before
    given = node.attrs["size"]
    told_ = tuple(
        -1 if a == b else b if isinstance(b, int) else s
        for a, b, s in zip(before, after, given, strict=True)
    )
    return _with(node, size=told_)


def _expanded_twice(node: Node, at: At) -> Node | None:
    inner = node.args[0]
    if not (isinstance(inner, Node) and inner.op == "expand"):
        return None
    outer, first = node.attrs["size"], inner.attrs["size"]
    first = (-1,) * (len(outer) - len(first)) + first
    size = tuple(b if a == -1 else a for a, b in zip(outer, first, strict=True))
    return at.instead("expand", inner.args[0], size=size)


def _slice(node: Node, at: At) -> Node | None:
    a = node.attrs
    dim = axis(node, node.args[0])
    size = sizes(node.args[0])[dim]
    start, end = a.get("start"), a.get("end")
    start = 0 if start is None else start
    end = _END if end is None else end
    if isinstance(size, int):
        start = _bound(start, size)
        end = _bound(end, size)
    attrs: dict[str, Any] = {"dim": dim, "start": start}
    if end != _END:
        attrs["end"] = end
    if a.get("step", 1) != 1:
        attrs["step"] = a["step"]
    return _with(node, **attrs)


def _sliced_twice(node: Node, at: At) -> Node | None:
    inner = node.args[0]
    if not (isinstance(inner, Node) and inner.op == "slice"):
        return None
    bounds = [n.attrs.get(key) for n in (inner, node) for key in ("start", "end")]
    same = inner.attrs["dim"] == node.attrs["dim"]
    if not same or any("step" in n.attrs for n in (inner, node)):
        return None
    first, last, start, end = bounds
    if not (isinstance(first, int) and isinstance(start, int) and isinstance(end, int)):
        return None
    if not isinstance(last, int):
        return None
    dim = node.attrs["dim"]
    return at.instead("slice", inner.args[0], dim=dim, start=first + start, end=first + end)


def _bound(value: Any, size: int) -> Any:
    """An end of a slice as a place between 0 and the size."""
    if not isinstance(value, int):
        return value
    return min(max(value + size if value < 0 else value, 0), size)


def _select(node: Node, at: At) -> Node | None:
    dim = axis(node, node.args[0])
    index, size = node.attrs["index"], sizes(node.args[0])[dim]
    if isinstance(index, int) and index < 0 and isinstance(size, int):
        index += size
    return _with(node, dim=dim, index=index)


def _select_of_stack(node: Node, at: At) -> Node | None:
    """One of the values that were stacked, or the only one."""
    inner, dim, index = node.args[0], node.attrs["dim"], node.attrs["index"]
    if isinstance(inner, Node) and inner.op == "unsqueeze" and inner.attrs["dim"] == dim:
        return inner.args[0]
    stacked = isinstance(inner, Node) and inner.op == "stack" and inner.attrs["dim"] == dim
    if not stacked or not isinstance(index, int) or not 0 <= index < len(inner.args[0]):
        return None
    part = inner.args[0][index]
    return part if part.type == node.type else None


def _select_of_permuted(node: Node, at: At) -> Node | None:
    inner, dim = node.args[0], node.attrs["dim"]
    if not (isinstance(inner, Node) and inner.op == "permute"):
        return None
    dims, whole = inner.attrs["dims"], inner.args[0]
    gone = dims[dim]
    shape = tuple(size for axis_, size in enumerate(sizes(whole)) if axis_ != gone)
    part = at(
        "select", whole, type_=TensorType(node.dtype, shape), dim=gone, index=node.attrs["index"]
    )
    return at.instead("permute", part, dims=_without(dims, gone))


def _squeeze_of_permuted(node: Node, at: At) -> Node | None:
    """An axis of size 1 that is put in, carried along and taken out."""
    inner, dim = node.args[0], node.attrs.get("dim")
    if not (isinstance(inner, Node) and inner.op == "permute" and isinstance(dim, int)):
        return None
    dims, lifted = inner.attrs["dims"], inner.args[0]
    gone = dims[dim % len(dims)]
    if not (isinstance(lifted, Node) and lifted.op == "unsqueeze" and lifted.attrs["dim"] == gone):
        return None
    return at.instead("permute", lifted.args[0], dims=_without(dims, gone))


def _without(dims: Sequence[int], gone: int) -> tuple[int, ...]:
    """An order of axes without one of them."""
    return tuple(d - (d > gone) for d in dims if d != gone)


def _select_of_split(node: Node, at: At) -> Node | None:
    """One of the parts that lie side by side along an axis, which a reshape takes apart."""
    inner, dim, index = node.args[0], node.attrs["dim"], node.attrs["index"]
    if not (isinstance(inner, Node) and inner.op == "reshape" and isinstance(index, int)):
        return None
    whole, parts = inner.args[0], sizes(inner)[dim:]
    before = sizes(whole)
    numbers = [size for size in parts if isinstance(size, int)]
    if len(before) <= dim or before[:dim] != sizes(inner)[:dim] or len(numbers) < len(parts):
        return None
    after = next((n for n in range(2, len(parts) + 1) if math.prod(numbers[:n]) == before[dim]), 0)
    if not after or before[dim + 1 :] != parts[after:] or not 0 <= index < numbers[0]:
        return None
    width = math.prod(numbers[1:after])
    cut = at(
        "slice",
        whole,
        type_=TensorType(node.dtype, (*before[:dim], width, *before[dim + 1 :])),
        dim=dim,
        start=index * width,
        end=(index + 1) * width,
    )
    shape = inner.attrs["shape"]
    return at.instead("reshape", cut, shape=(*shape[:dim], *shape[dim + 1 :]))


def _unsqueeze(node: Node, at: At) -> Node | None:
    return _with(node, dim=node.attrs["dim"] % len(sizes(node)))


def _axis_last(node: Node, at: At) -> Node | None:
    """``cat`` and ``stack`` always say along which axis, from the front."""
    return _with(node, dim=int(node.attrs.get("dim", 0)) % len(sizes(node)))


def _part(node: Node, at: At) -> Node | None:
    """One part of several."""
    source, index = node.args
    if not (isinstance(source, Node) and isinstance(source.type, tuple) and isinstance(index, int)):
        return None
    base = source.op.removeprefix("aten.").split(".")[0]
    if base not in ("split", "split_with_sizes", "chunk", "tensor_split", "unbind"):
        return None
    whole = operand(source, 0)
    assert isinstance(whole, Node)
    dim = axis(source, whole)
    if base == "unbind":
        return at.instead("select", whole, dim=dim, index=index)
    ends = [0]
    for part in source.type:
        size = part.shape[dim] if isinstance(part, TensorType) else None
        if not isinstance(size, int):
            return None
        ends.append(ends[-1] + size)
    return at.instead("slice", whole, dim=dim, start=ends[index], end=ends[index + 1])


def _slice_of_parts(node: Node, at: At) -> Node | None:
    """Whole parts of a concatenation."""
    inner, a = node.args[0], node.attrs
    if not (isinstance(inner, Node) and inner.op == "cat" and inner.attrs["dim"] == a["dim"]):
        return None
    kept: list[Node] = []
    place = 0
    for part in inner.args[0]:
        size = sizes(part)[a["dim"]] if len(sizes(part)) == len(sizes(node)) else None
        if not isinstance(size, int):
            return None
        if a["start"] <= place and place + size <= a.get("end", _END):
            kept.append(part)
        place += size
    whole = sum(int(sizes(part)[a["dim"]]) for part in kept) == sizes(node)[a["dim"]]
    if not kept or not whole or "step" in a or any(p.dtype != node.dtype for p in kept):
        return None
    return kept[0] if len(kept) == 1 else at.instead("cat", tuple(kept), dim=a["dim"])


def _scattered(node: Node, at: At) -> Node | None:
    """A value with a run of positions along an axis replaced."""
    whole, part = node.args
    dim = axis(node, whole)
    size = sizes(whole)[dim]
    if not isinstance(size, int) or node.attrs.get("step", 1) != 1 or part.dtype != node.dtype:
        return None
    if node.op.startswith("aten.select"):
        start = int(node.attrs["index"]) % size
        part, end = at("unsqueeze", part, dim=dim), start + 1
    else:
        start = _bound(node.attrs.get("start") or 0, size)
        end = _bound(_END if node.attrs.get("end") is None else node.attrs["end"], size)
    if not isinstance(start, int) or not isinstance(end, int):
        return None
    before = [at("slice", whole, dim=dim, start=0, end=start)] if start else []
    after = [at("slice", whole, dim=dim, start=end, end=size)] if end < size else []
    return at.instead("cat", (*before, part, *after), dim=dim)


def _expanded_like(node: Node, at: At) -> Node | None:
    shape = sizes(node)
    known = all(isinstance(size, int) for size in shape)
    return at.instead("expand", node.args[0], size=shape) if known else None


def _copied(node: Node, at: At) -> Node | None:
    """What was written over all of a value."""
    value = node.args[1]
    if sizes(value) != sizes(node) and any(isinstance(size, str) for size in sizes(node)):
        return None
    if value.dtype != node.dtype:
        value = at("to", value, dtype=node.dtype)
    return value if value.type == node.type else at.instead("expand", value, size=sizes(node))


RULES: Rules = {
    **on("aten.copy.default", _copied),
    **on("reshape", _told, _merged),
    **on("permute", _composed),
    **on("squeeze", _undone, _squeeze_of_permuted),
    **on("unsqueeze", _unsqueeze, _undone),
    **on("expand", _expand, _expanded_twice),
    **on("slice", _slice, _sliced_twice, _slice_of_parts),
    **on("aten.slice_scatter.default aten.select_scatter.default", _scattered),
    **on("aten.expand_as.default", _expanded_like),
    **on("select", _select, _select_of_stack, _select_of_permuted, _select_of_split),
    **on("cat stack", _axis_last),
    **on("getitem", _part),
}
