"""Tensors made from nothing but numbers and shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....ir import Node, TensorType
from ....ir.graph import Arg
from ..builder import Builder, dtype_name


def arange(b: Builder, node: Node, end: Arg, start: Arg = 0, step: Arg = 1) -> Any:
    name = dtype_name(node.dtype)
    first, by = (b.scalar(arg, node.dtype) for arg in (start, step))
    return b.compute(node.shape, lambda i: first + i.astype(name) * by, name="arange")


def _filled(b: Builder, node: Node, value: Arg) -> Any:
    if isinstance(value, Node) and isinstance(value.type, TensorType):
        return b.map(node.shape, lambda x: x, b.tensor(value, node.dtype), name="full")
    number = b.scalar(value, node.dtype)
    return b.compute(node.shape, lambda *place: number, name="full")


def full(b: Builder, node: Node, size: Arg, fill_value: Arg) -> Any:
    return _filled(b, node, fill_value)


def full_like(b: Builder, node: Node, self: Arg, fill_value: Arg) -> Any:
    return _filled(b, node, fill_value)


def new_full(b: Builder, node: Node, self: Arg, size: Arg, fill_value: Arg) -> Any:
    return _filled(b, node, fill_value)


def _of(value: int) -> Callable[..., Any]:
    def lowering(b: Builder, node: Node, size: Arg = None, self: Arg = None) -> Any:
        return _filled(b, node, value)

    return lowering


def scalar_tensor(b: Builder, node: Node, s: Arg) -> Any:
    return _filled(b, node, s)


LOWERINGS: dict[str, Callable[..., Any]] = {
    "arange": arange,
    "full": full,
    "zeros": _of(0),
    "ones": _of(1),
    "full_like": full_like,
    "zeros_like": _of(0),
    "ones_like": _of(1),
    "aten.new_full.default": new_full,
    "aten.new_zeros.default": _of(0),
    "aten.new_ones.default": _of(1),
    "scalar_tensor": scalar_tensor,
}
