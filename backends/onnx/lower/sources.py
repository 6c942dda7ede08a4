"""Tensors made from nothing but numbers and shapes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ....ir import Node
from ....ir.graph import Arg
from ..builder import Builder, tensor_proto


def _scalar(b: Builder, arg: Arg, dtype: torch.dtype) -> str:
    """A number as a tensor of rank zero."""
    return b.tensor(arg, dtype)


def arange(b: Builder, node: Node, end: Arg, start: Arg = 0, step: Arg = 1) -> str:
    return b.op("Range", *(_scalar(b, arg, node.dtype) for arg in (start, end, step)))


def _filled(b: Builder, node: Node, shape: str, value: Arg) -> str:
    if isinstance(value, Node):
        return b.op("Expand", _scalar(b, value, node.dtype), shape)
    fill = tensor_proto("", torch.full((1,), value, dtype=node.dtype))
    return b.op("ConstantOfShape", shape, value=fill)


def full(b: Builder, node: Node, size: Arg, fill_value: Arg) -> str:
    return _filled(b, node, b.numbers(size), fill_value)


def full_like(b: Builder, node: Node, self: Arg, fill_value: Arg) -> str:
    return _filled(b, node, b.op("Shape", b.tensor(self)), fill_value)


def new_full(b: Builder, node: Node, self: Arg, size: Arg, fill_value: Arg) -> str:
    return full(b, node, size, fill_value)


def _of(value: int) -> Callable[[Builder, Node, Arg], str]:
    def lowering(b: Builder, node: Node, size: Arg) -> str:
        return full(b, node, size, value)

    return lowering


def _new(value: int) -> Callable[..., str]:
    def lowering(b: Builder, node: Node, self: Arg, size: Arg) -> str:
        return full(b, node, size, value)

    return lowering


def _like(value: int) -> Callable[[Builder, Node, Arg], str]:
    def lowering(b: Builder, node: Node, self: Arg) -> str:
        return full_like(b, node, self, value)

    return lowering


def scalar_tensor(b: Builder, node: Node, s: Arg) -> str:
    return _scalar(b, s, node.dtype)


def _triangle(upper: int) -> Callable[..., str]:
    def lowering(b: Builder, node: Node, self: Arg, diagonal: Arg = 0) -> str:
        offset = b.tensor(diagonal, torch.int64)
        if node.dtype in (torch.int32, torch.int16, torch.int8, torch.uint8):  # no kernel for these
            wide = b.op("Trilu", b.tensor(self, torch.int64), offset, upper=upper)
            return b.cast(wide, node.dtype)
        return b.op("Trilu", b.tensor(self), offset, upper=upper)

    return lowering


LOWERINGS = {
    "arange": arange,
    "full": full,
    "zeros": _of(0),
    "ones": _of(1),
    "full_like": full_like,
    "zeros_like": _like(0),
    "ones_like": _like(1),
    "aten.new_full.default": new_full,
    "aten.new_zeros.default": _new(0),
    "aten.new_ones.default": _new(1),
    "scalar_tensor": scalar_tensor,
    "tril": _triangle(0),
    "triu": _triangle(1),
}
