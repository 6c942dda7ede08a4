"""Attention on what a cache holds, with the new tokens put into it where it lies.

    keys = cat(past keys, k), values = cat(past values, v)
    sdpa(q, repeat(keys), repeat(values), [k <= past + q])
                              ->  ort.cached_attention(q, k, v, past keys, past values, past)

The op of ONNX Runtime is told how many tokens the past has, and takes that many of what it is
given: so what it is given may be a buffer with room for more, which it fills and gives back without
copying. How many there are becomes an input of the graph, in place of the size. Masks are those of
``positions``: causal, and with a window. All caches of a graph take this form or none does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ....ir import Graph, Node, ScalarType, TensorType
from ....ir.state import Cache, find_caches
from ....ir.types import symbols
from .heads import side_by_side, strip, ungrouped
from .positions import window

_HEADS = 8  # what the width of a head must be a multiple of


@dataclass(frozen=True)
class Fit:
    """One attention, its caches, and how many of the last tokens it sees (0 for all)."""

    keys: Cache
    values: Cache
    window: int

    @property
    def attention(self) -> Node:
        return self.keys.attention


class Unfit(Exception):
    """Why a graph does not take the form."""


def fuse(graph: Graph) -> None:
    try:
        fits = find_fits(graph)
    except Unfit:
        return
    if not fits:
        return
    past = fits[0].keys.past.shape[2]
    tokens = graph.input(str(past), ScalarType("int"))
    for fit in fits:
        _fuse(graph, fit, tokens)
    for node in list(graph.nodes):
        if node.op == "sym_size" and node.args[0].shape[node.attrs["dim"]] == past:
            graph.replace(node, tokens)


def find_fits(graph: Graph) -> list[Fit]:
    """The attentions on caches; empty where there is no cache.

    Raises:
        Unfit: One of them has another form; says which and why.
    """
    caches = find_caches(graph)
    if not caches:
        return []
    past = caches[0].past.shape[caches[0].axis]
    if not isinstance(past, str) or not past.isidentifier():
        return []  # of a fixed length: nothing is added to it
    held = {cache.past for cache in caches}
    for node in graph.inputs:
        if node not in held and past in node_sizes(node):
            raise Unfit(f"{node.name} is no cache that attention reads")
    by_attention: dict[Node, list[Cache]] = {}
    for cache in caches:
        by_attention.setdefault(cache.attention, []).append(cache)
    fits = [_fit(graph, found, past) for found in by_attention.values()]
    _check_batch(graph, caches[0])
    return fits


def node_sizes(node: Node) -> Sequence[int | str]:
    """The sizes of a tensor; none of a number."""
    return node.shape if isinstance(node.type, TensorType) else ()


def _fit(graph: Graph, caches: list[Cache], past: str) -> Fit:
    attention = caches[0].attention
    roles = {cache.role: cache for cache in caches}
    if len(caches) != 2 or len(roles) != 2:
        raise Unfit(f"{attention.name} does not read both its keys and its values from caches")
    keys, values = roles["keys"], roles["values"]
    for cache in caches:
        _check_shape(cache, past)
    if keys.past.shape != values.past.shape:
        raise Unfit(f"{attention.name} has values of another width than keys")
    if attention.dtype != torch.float32 or attention.attrs.get("dropout_p"):
        raise Unfit(f"{attention.name} is not plain attention in float32")
    query, (batch, heads, length, width) = attention.args[0], attention.args[0].shape
    if not isinstance(heads, int) or heads % int(keys.past.shape[1]) or len(query.shape) != 4:
        raise Unfit(f"{attention.name} has heads that its keys are not shared by")
    if (batch, width) != (keys.past.shape[0], keys.past.shape[3]):
        raise Unfit(f"{attention.name} has queries of another shape than keys")
    if keys.fresh.shape[2] != length or values.fresh.shape[2] != length:
        raise Unfit(f"{attention.name} has other numbers of queries than of new keys")
    mask = attention.operand(3)
    if attention.attrs.get("is_causal"):
        raise Unfit(f"{attention.name} lets a query see as many keys as it comes after queries")
    if mask is None and length == 1:
        return Fit(keys, values, 0)
    seen = window(mask, past, graph)
    if seen is None:
        raise Unfit(f"{attention.name} has a mask that is not causal by positions alone")
    return Fit(keys, values, seen)


def _check_shape(cache: Cache, past: str) -> None:
    _, heads, tokens, width = cache.past.shape if len(cache.past.shape) == 4 else (0, 0, 0, 0)
    if cache.axis != 2 or tokens != past or not isinstance(heads, int):
        raise Unfit(f"{cache.past.name} is not [batch, heads, {past}, width]")
    if not isinstance(width, int) or width % _HEADS:
        raise Unfit(f"{cache.past.name} has heads {width} wide, which is no multiple of {_HEADS}")
    attention = cache.attention
    read = attention.args[1 if cache.role == "keys" else 2]
    if strip(ungrouped(read)) is not cache.joined and strip(read) is not cache.joined:
        raise Unfit(f"{cache.joined.name} reaches {attention.name} in another order of heads")


def _check_batch(graph: Graph, cache: Cache) -> None:
    """Several new tokens of several sequences beside a past are run one sequence at a time."""
    batch, _, length, _ = cache.fresh.shape
    if 1 in (batch, length):
        return
    if not isinstance(batch, str) or not batch.isidentifier():
        raise Unfit(f"{cache.past.name} has a fixed number of sequences")
    for node in (*graph.inputs, *graph.output.inputs):
        if batch in symbols(node.type) and node_sizes(node)[0] != batch:
            raise Unfit(f"{node.name} has its sequences along another axis than the first")
    if any(batch not in node_sizes(node)[:1] for node in graph.output.inputs):
        raise Unfit("an output does not have one part for each sequence")


def _fuse(graph: Graph, fit: Fit, tokens: Node) -> None:
    attention, keys, values = fit.attention, fit.keys, fit.values
    query = attention.args[0]
    batch, heads, length, width = query.shape
    rows = TensorType(attention.dtype, (batch, length, int(heads) * int(width)))
    scale = attention.attrs.get("scale")
    both = graph.add(
        "ort.cached_attention",
        *(side_by_side(graph, part, attention) for part in (query, keys.fresh, values.fresh)),
        keys.past,
        values.past,
        tokens,
        heads=heads,
        kv_heads=keys.past.shape[1],
        scale=float(int(width) ** -0.5 if scale is None else scale),
        window=fit.window,
        type=(rows, keys.joined.type, values.joined.type),
        where=attention.where,
        before=attention,
    )
    out, *caches = (
        graph.add("getitem", both, index, type=type_, before=attention)
        for index, type_ in enumerate((rows, keys.joined.type, values.joined.type))
    )
    split = graph.add("ort.split_heads", out, heads=heads, type=attention.type, before=attention)
    graph.supersede(attention, split)
    for cache, new in zip((keys, values), caches, strict=True):
        graph.replace(cache.joined, new)
