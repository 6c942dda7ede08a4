"""Attention, and the rotation of positions, as single ops of opset 23.

ONNX Runtime's ops are fastest with the heads still side by side (``[B, S, H*D]``);
``forms/attention.py`` brings a graph there. ``MultiHeadAttention`` computes blocks of queries
at a time and takes 0.8 to 0.9 of the time of ``Attention`` from some dozens of positions on, but
1.2 times as long with a mask (measured at 16 to 1500 positions).
"""

from __future__ import annotations

import torch

from ....ir import Node
from ..builder import MICROSOFT, Builder, Declined, rank

LONG = 64  # positions from which blocks of queries pay


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
) -> str:
    """On ``[B, H, S, D]``; without heads, ``[B, S, D]`` gets one."""
    if dropout_p or rank(query) not in (3, 4):
        raise Declined("with dropout" if dropout_p else "of such a rank")
    operands = [b.tensor(part) for part in (query, key, value)]
    if rank(query) == 3:
        operands = [b.op("Unsqueeze", part, b.ints(1)) for part in operands]
    sizes = (b.size(operands[0], 2), b.size(operands[1], 2))
    mask = attention_mask(b, attn_mask, (query.shape[-2], key.shape[-2]), sizes)
    attributes = {} if scale is None else {"scale": float(scale)}
    result = b.op("Attention", *operands, mask, is_causal=int(is_causal), **attributes)
    return b.op("Squeeze", result, b.ints(1)) if rank(query) == 3 else result


def attention_mask(
    b: Builder, mask: Node | None, lengths: tuple[int | str, int | str], sizes: tuple[str, str]
) -> str:
    """A mask as ``[., ., Q, K]``: it is broadcast over batch and heads, and not over positions."""
    if mask is None:
        return ""

    def make() -> str:
        name = b.tensor(mask)
        if rank(mask) < 4:
            name = b.op("Unsqueeze", name, b.ints(*range(4 - rank(mask))))
        if mask.shape[-2:] == lengths:
            return name
        return b.op("Expand", name, b.op("Concat", b.ints(1, 1), *sizes, axis=0))

    return b.memo(("attention_mask", mask.name, lengths), make)


def side_by_side(
    b: Builder,
    node: Node,
    query: Node,
    key: Node,
    value: Node,
    mask: Node | None,
    *,
    heads: int,
    kv_heads: int,
    scale: float,
    causal: bool,
) -> str:
    """``[B, Q, H*D], [B, K, G*D], [B, K, G*E] -> [B, Q, H*E]``."""
    operands = [b.tensor(part) for part in (query, key, value)]
    lengths = (query.shape[1], key.shape[1])
    long = all(isinstance(length, int) and length >= LONG for length in lengths)
    whole = mask is None and not causal and heads == kv_heads
    if b.dialect.runtime and long and whole and node.dtype == torch.float32:
        return b.op(f"{MICROSOFT}MultiHeadAttention", *operands, num_heads=heads, scale=scale)
    sizes = (b.size(operands[0], 1), b.size(operands[1], 1)) if mask is not None else ("", "")
    return b.op(
        "Attention",
        *operands,
        attention_mask(b, mask, lengths, sizes),
        q_num_heads=heads,
        kv_num_heads=kv_heads,
        scale=scale,
        is_causal=int(causal),
    )


def cached(
    b: Builder,
    node: Node,
    query: Node,
    key: Node | None,
    value: Node | None,
    past_keys: Node,
    past_values: Node,
    past: Node,
    cos: Node | None = None,
    sin: Node | None = None,
    *,
    heads: int,
    kv_heads: int,
    scale: float,
    window: int,
) -> tuple[str, ...]:
    """``[B, Q, H*D], [B, Q, G*D], [B, Q, G*D], [B, G, P, D], [B, G, P, D], past ->
    [B, Q, H*D], [B, G, P', D], [B, G, P', D]``.

    P may be more than ``past``, which is how many tokens there are; P' is P, or ``past + Q`` where
    that is more. Without keys and values, ``query`` holds all three side by side. It and the keys
    are turned by ``cos`` and ``sin``, ``[1, Q, D]``, where these are given.
    """
    operands = [b.tensor(part) for part in (query, key, value)]
    tables = () if cos is None or sin is None else _turns(b, operands[0], query, past, (cos, sin))
    return b.ops(
        f"{MICROSOFT}GroupQueryAttention",
        *operands,
        b.tensor(past_keys),
        b.tensor(past_values),
        *_lengths(b, operands[0], query, past),
        *tables,
        count=3,
        num_heads=heads,
        kv_num_heads=kv_heads,
        scale=scale,
        local_window_size=window or -1,
        **({"do_rotary": 1} if tables else {}),
    )


def _lengths(b: Builder, x: str, query: Node, past: Node) -> tuple[str, str]:
    """The place of the last key of each sequence, and how many keys there are."""

    def make() -> tuple[str, str]:
        total = b.op("Add", b.number(past), b.size(x, 1))
        last = b.cast(b.op("Sub", total, b.ints(1)), torch.int32)
        every = b.op("Expand", last, b.op("Shape", x, start=0, end=1))
        return every, b.op("Squeeze", b.cast(total, torch.int32))

    return b.memo(("lengths", past.name, query.shape[:2]), make)


def _turns(
    b: Builder, x: str, query: Node, past: Node, tables: tuple[Node, Node]
) -> tuple[str, str, str]:
    """Tables with a row for each key, as the op asks for, of which the first are those of the new
    tokens; and which rows these are."""

    def rows(table: Node) -> str:
        return b.memo(("rows", table.name), lambda: _filled(b, table, past))

    def places() -> str:
        new = b.op("Squeeze", b.size(x, 1))
        every = b.op("Range", b.constant(0, torch.int64), new, b.constant(1, torch.int64))
        return b.op("Expand", every, b.op("Shape", x, start=0, end=2))

    cos, sin = rows(tables[0]), rows(tables[1])
    return cos, sin, b.memo(("places", query.shape[:2]), places)


def _filled(b: Builder, table: Node, past: Node) -> str:
    """``[past + Q, D / 2]`` of ``[1, Q, D]``."""
    half = b.op("Squeeze", _first_half(b, table), b.ints(0))
    pads = b.memo(
        ("pads", past.name), lambda: b.op("Concat", b.ints(0, 0), b.number(past), b.ints(0), axis=0)
    )
    return b.op("Pad", half, pads)


def rotary(b: Builder, node: Node, input: Node, cos: Node, sin: Node, *, heads: int) -> str:
    """``x cos + rotate_half(x) sin`` on ``[B, S, H*D]``, or on ``[B, H, S, D]`` if ``heads`` is 0.

    ``cos`` and ``sin`` are ``[B or 1, S, D]`` with two equal halves, of which ONNX wants one.
    """
    x = b.tensor(input)
    tables = [_half(b, table, input, x) for table in (cos, sin)]
    attributes = {"num_heads": heads} if heads else {}
    return b.op("RotaryEmbedding", x, *tables, **attributes)


def _half(b: Builder, table: Node, input: Node, x: str) -> str:
    def make() -> str:
        half = _first_half(b, table)
        if table.shape[0] == input.shape[0]:
            return half
        # The op has no broadcasting over the batch.
        return b.op("Expand", half, b.op("Concat", b.size(x, 0), b.ints(1, 1), axis=0))

    return b.memo(("half", table.name, input.shape[0]), make)


def _first_half(b: Builder, table: Node) -> str:
    width = int(table.shape[-1]) // 2
    return b.op("Slice", b.tensor(table), b.ints(0), b.ints(width), b.ints(-1))


LOWERINGS = {
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "ort.attention": side_by_side,
    "ort.cached_attention": cached,
    "ort.rotary": rotary,
}
