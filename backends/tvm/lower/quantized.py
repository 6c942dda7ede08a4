"""Codes: made, and read."""

from __future__ import annotations

from typing import Any

import torch

from ....ir import Node, TensorType
from ....ir.own import LIMITS
from ..builder import Builder, dtype_name


def _code(b: Builder, x: Any, scale: Any, zero: Any, dtype: torch.dtype, name: str) -> Any:
    """``clip(round(x / scale) + zero)`` of one number, with half to even."""
    t = b.tirx
    low, high = (t.const(float(limit), name) for limit in LIMITS[dtype])
    code = t.nearbyint(t.div(x, scale))
    code = code if zero is None else code + zero.astype(name)
    return t.max(t.min(code, high), low).astype(dtype_name(dtype))


def quantize(
    b: Builder,
    node: Node,
    input: Node,
    scale: Node,
    zero_point: Node | None = None,
    dtype: torch.dtype = torch.uint8,
) -> Any:
    name = dtype_name(input.dtype)

    def function(x: Any, scale: Any, zero: Any = None) -> Any:
        return _code(b, x, scale, zero, dtype, name)

    operands = [b.tensor(input), b.tensor(scale, input.dtype)]
    zeros = [] if zero_point is None else [b.tensor(zero_point)]
    return b.map(node.shape, function, *operands, *zeros, name="quantize")


def dequantize(
    b: Builder, node: Node, input: Node, scale: Node, zero_point: Node | None = None
) -> Any:
    name = dtype_name(node.dtype)

    def function(code: Any, scale: Any, zero: Any = None) -> Any:
        value = code.astype(name)
        return (value if zero is None else value - zero.astype(name)) * scale

    zeros = [] if zero_point is None else [b.tensor(zero_point)]
    operands = b.tensor(input), b.tensor(scale)
    return b.map(node.shape, function, *operands, *zeros, name="dequantize")


def dynamic_quantize(
    b: Builder, node: Node, input: Node, per_token: bool = True, dtype: torch.dtype = torch.uint8
) -> tuple[Any, ...]:
    """Codes, scale and zero point."""
    assert isinstance(node.type, tuple) and isinstance(node.type[1], TensorType)
    x, shape, t = b.tensor(input), node.type[1].shape, b.tirx
    name, kind = dtype_name(input.dtype), dtype_name(dtype)
    low, high = LIMITS[dtype]
    one, nothing = t.const(1, name), t.const(0, name)

    def whole(range_: Any) -> Any:
        return t.Select(t.EQ(range_, nothing), one, range_)

    if per_token:
        middle = (low + high + 1) // 2
        size = b.compute_like(x, lambda x: t.abs(x), name="size")
        top = b.reduce("max", size, [-1], keep=True)
        scale = b.compute_like(
            top, lambda x: whole(t.div(x, t.const(high - middle, name))), name="scale"
        )
        zero = b.compute(shape, lambda *_: t.const(middle, kind), name="zero")
    else:
        top, bottom = (b.reduce(extreme, x, None, keep=False) for extreme in ("max", "min"))

        def step(top: Any, bottom: Any) -> Any:
            width = t.max(top, nothing) - t.min(bottom, nothing)
            return whole(t.div(width, t.const(high - low, name)))

        def place(bottom: Any, scale: Any) -> Any:
            first = t.const(low, name) - t.div(t.min(bottom, nothing), scale)
            least, most = (t.const(float(limit), name) for limit in (low, high))
            return t.max(t.min(t.nearbyint(first), most), least).astype(kind)

        scale = b.map(shape, step, top, bottom, name="scale")
        zero = b.map(shape, place, bottom, scale, name="zero")
    codes = b.map(
        input.shape,
        lambda x, scale, zero: _code(b, x, scale, zero, dtype, name),
        x,
        scale,
        zero,
        name="codes",
    )
    return codes, scale, zero


LOWERINGS = {
    "quantize": quantize,
    "dequantize": dequantize,
    "dynamic_quantize": dynamic_quantize,
}
