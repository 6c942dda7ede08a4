"""A product with a weight is ``linear``, whatever it was written as.

    matmul(x, W^T), x @ W^T + b            ->  linear(x, W, b)
    matmul(x, W)                           ->  linear(x, W^T)            W^T a parameter of its own
    matmul(W, x)                           ->  linear(x^T, W)^T
    einsum("bsd,dhk->bshk", x, W)          ->  linear and reshape;  of two values: matmul
    reshape(linear(reshape(x)))            ->  linear(x)
    any spelling of a grouped product      ->  grouped_mm, which knows every dtype

A weight that others read as it is stays as it is (a tie is not broken); ``linear`` then reads
``permute(W)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ...ir import Lazy, Node, TensorType
from ...ir.graph import Arg
from ...ir.types import Dim
from .rewrite import At, Rules, alone, is_param, on, operand, sizes


def _turned(at: At, value: Node) -> Node:
    """A value with its last two axes exchanged."""
    rank = len(sizes(value))
    return at("permute", value, dims=(*range(rank - 2), rank - 1, rank - 2))


def _is_weight(arg: Arg) -> bool:
    """A matrix that is a parameter, or one transposed."""
    if isinstance(arg, Node) and arg.op == "permute":
        arg = arg.args[0]
    return is_param(arg, 2) and isinstance(arg, Node) and arg.tensor.dtype.is_floating_point


def _matmul(node: Node, at: At) -> Node | None:
    left, right = node.args
    if min(len(sizes(left)), len(sizes(right))) < 2 or (_is_weight(left) and _is_weight(right)):
        return None
    if _is_weight(right):
        return at.instead("linear", left, _turned(at, right))
    if _is_weight(left):
        return _turned(at, at("linear", _turned(at, right), left))
    return None


def _moved_weight(node: Node, at: At) -> Node | None:
    """A movement of a parameter that nobody reads otherwise is done once and for all."""
    weight = node.args[0]
    if not (is_param(weight) and len(weight.users) == 1):
        return None
    if node.op == "permute":
        return at.param(
            weight, changed(at, weight, lambda t: t.permute(node.attrs["dims"]).contiguous())
        )
    shape = [int(size) for size in sizes(node)]
    return at.param(weight, changed(at, weight, lambda t: t.reshape(shape)))


def changed(
    at: At, weight: Node, change: Callable[[torch.Tensor], torch.Tensor], *, rounds: bool = False
) -> torch.Tensor | Lazy:
    """What a parameter becomes; one that is still on disk is changed when it is read.

    Args:
        rounds: Whether the change computes, so that its value in float64 is kept beside the rounded
            one.
    """
    value = at.graph.store.tensors[weight.name]
    if not isinstance(value, Lazy):
        new = change(value)
        if not rounds:
            return new
        return Lazy(
            TensorType(new.dtype, tuple(new.shape)), lambda: new, lambda: change(value.double())
        )
    type_, read, exact = value.type, value.read, value.exact
    shape = change(torch.empty([int(s) for s in type_.shape], device="meta")).shape
    if exact is None and not rounds:
        return Lazy(TensorType(type_.dtype, tuple(shape)), lambda: change(read()))
    source = exact or (lambda: read().double())
    return Lazy(
        TensorType(type_.dtype, tuple(shape)), lambda: change(read()), lambda: change(source())
    )


def _bias(node: Node, at: At) -> Node | None:
    """``linear(x, W) + b``"""
    for product, bias in (node.args, node.args[::-1]):
        if alone(product, "linear") and len(product.args) == 2 and is_param(bias, 1):
            if (
                sizes(bias) == sizes(product)[-1:]
                and product.type == node.type
                and bias.dtype == node.dtype
            ):
                return at.instead("linear", *product.args, bias)
    return None


def _rows(node: Node, at: At) -> Node | None:
    """The axes before the last, merged for a matrix product and split again."""
    product = node.args[0]
    rows = product.args[0] if alone(product, "linear") else None
    if not (isinstance(rows, Node) and rows.op == "reshape" and len(sizes(node)) >= 2):
        return None
    if sizes(node)[-1:] != sizes(product)[-1:] or not isinstance(sizes(rows)[-1], int):
        return None
    x, leading = rows.args[0], sizes(node)[:-1]
    if sizes(x) != (*leading, sizes(rows)[-1]):
        shape = (*node.attrs["shape"][:-1], sizes(rows)[-1])
        x = at("reshape", x, type_=TensorType(x.dtype, (*leading, sizes(rows)[-1])), shape=shape)
    return at.instead("linear", x, *product.args[1:])


# -- einsum -------------------------------------------------------------------------------------


def _einsum(node: Node, at: At) -> Node | None:
    equation = node.attrs["equation"].replace(" ", "")
    operands = operand(node, 0)
    if (
        "." in equation
        or "->" not in equation
        or not isinstance(operands, tuple)
        or len(operands) != 2
    ):
        return None
    inputs, out = equation.split("->")
    left, right = inputs.split(",")
    if any(len(set(part)) < len(part) for part in (left, right, out)):
        return None
    if any(c not in right + out for c in left) or any(c not in left + out for c in right):
        return None  # a sum over one operand alone
    size = dict(zip(left + right, sizes(operands[0]) + sizes(operands[1]), strict=True))
    batch = [c for c in out if c in left and c in right]
    summed = [c for c in left if c in right and c not in out]
    mine, yours = (
        [c for c in out if c in a and c not in b] for a, b in ((left, right), (right, left))
    )
    if not summed:
        return None
    x = _grouped(at, operands[0], left, size, batch, mine, summed)
    y = _grouped(at, operands[1], right, size, batch, summed, yours)
    if x is None or y is None:
        return None
    product = at("matmul", x, y)
    shape = _shape([*batch, *mine, *yours], size)
    if shape is None:
        return None
    result = at("reshape", product, shape=shape)
    return at("permute", result, dims=tuple([*batch, *mine, *yours].index(c) for c in out))


def _grouped(
    at: At, value: Node, letters: str, size: dict[str, Dim], *groups: list[str]
) -> Node | None:
    """The value with its axes in this order, those of the last two groups merged."""
    batch, first, second = groups
    moved = at("permute", value, dims=tuple(letters.index(c) for c in (*batch, *first, *second)))
    shape = _shape([*batch], size)
    merged = [_product([size[c] for c in group]) for group in (first, second)]
    if shape is None or (-1 in shape) + merged.count(None) > 1:
        return None
    return at("reshape", moved, shape=(*shape, *(-1 if m is None else m for m in merged)))


def _product(parts: list[Dim]) -> int | None:
    return (
        math.prod(p for p in parts if isinstance(p, int))
        if not any(isinstance(p, str) for p in parts)
        else None
    )


def _shape(letters: list[str], size: dict[str, Dim]) -> tuple[int, ...] | None:
    shape = tuple(s if isinstance(s := size[c], int) else -1 for c in letters)
    return shape if shape.count(-1) <= 1 else None


def _grouped_product(node: Node, at: At) -> Node | None:
    data, weight, *rest = node.args
    bias = operand(node, 3)
    dtype = node.attrs.get("out_dtype")
    if not rest or rest[0] is None or bias is not None or dtype not in (None, node.dtype):
        return None
    if len(sizes(data)) != 2 or len(sizes(weight)) != 3:
        return None
    return at.instead("grouped_mm", data, weight, rest[0])


RULES: Rules = {
    **on("aten._grouped_mm.default transformers.grouped_mm_fallback.default", _grouped_product),
    **on("matmul", _matmul),
    **on("permute", _moved_weight),
    **on("add", _bias),
    **on("reshape", _moved_weight, _rows),
    **on("aten.einsum.default", _einsum),
}
