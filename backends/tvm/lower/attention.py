"""Attention, as two products and a softmax between them."""

from __future__ import annotations

import math
from typing import Any

import torch

from ....ir import Node
from ...lowering import Declined, rank
from ..builder import Builder
from .norms import softmax_of


def scaled_dot_product_attention(
    b: Builder,
    node: Node,
    query: Node,
    key: Node,
    value: Node,
    attn_mask: Node | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """On ``[..., Q, D]``, ``[..., K, D]`` and ``[..., K, E]``."""
    if dropout_p:
        raise Declined("with dropout")
    keys, values = b.tensor(key), b.tensor(value)
    if enable_gqa and query.shape[-3] != key.shape[-3]:
        keys, values = (_shared(b, part, query) for part in (key, value))
    factor = int(query.shape[-1]) ** -0.5 if scale is None else scale
    order = list(range(rank(key)))
    turned = b.op("permute_dims", keys, [*order[:-2], order[-1], order[-2]])
    product = b.op("matmul", b.tensor(query), turned)
    scores = _masked(b, node, query, key, product, attn_mask, is_causal, factor)
    return b.op("matmul", softmax_of(b, scores, -1), values)


def _shared(b: Builder, part: Node, query: Node) -> Any:
    """Heads of keys or values, each for as many heads of queries as share it."""
    groups = int(query.shape[-3]) // int(part.shape[-3])
    shape = (*part.shape[:-3], query.shape[-3], *part.shape[-2:])

    def at(x: Any, *place: Any) -> Any:
        return x(*place[:-3], b.tirx.floordiv(place[-3], groups), *place[-2:])

    return b.compute(shape, at, b.tensor(part), name="share_heads")


def _masked(
    b: Builder,
    node: Node,
    query: Node,
    key: Node,
    product: Any,
    mask: Node | None,
    causal: bool,
    factor: float,
) -> Any:
    """Scores, with minus infinity where a key does not count."""
    t, low = b.tirx, b.number(-math.inf, node.dtype)

    def at(x: Any, *rest: Any) -> Any:
        masks, place = rest[: mask is not None], rest[mask is not None :]
        score = x(*place) * b.number(factor, node.dtype)
        for value in masks:
            there = b.element(value, place)
            score = t.Select(there, score, low) if _is_truth(mask) else score + there
        return t.Select(place[-1] <= place[-2], score, low) if causal else score

    shape = (*node.shape[:-2], query.shape[-2], key.shape[-2])
    dtype = None if _is_truth(mask) else node.dtype
    masks = [] if mask is None else [b.tensor(mask, dtype)]
    return b.compute(shape, at, product, *masks, name="scores")


def _is_truth(mask: Node | None) -> bool:
    return mask is not None and mask.dtype == torch.bool


LOWERINGS = {"scaled_dot_product_attention": scaled_dot_product_attention}
