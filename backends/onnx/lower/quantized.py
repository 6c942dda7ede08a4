"""Codes and what computes on them.

A linear layer on codes is ``MatMulIntegerToFloat(u8, s8)``, which multiplies integers and gives
floats in one kernel. Codes by token come from a QuantizeLinear over rows: with ``axis=0`` of a
matrix it runs the same vectorised loop a row that it runs for a whole tensor.
"""

from __future__ import annotations

import torch

from ....ir import Node
from ....ir.codes import bias_codes, fits_pairs
from ....ir.gauge.sites import LINEAR_MAPS
from ....ir.graph import Arg
from ....ir.own import LIMITS
from ..builder import MICROSOFT, Builder, rank
from .contractions import affine, conv_attributes, transposed

_CODES = (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32)


def _axis(value: Node, scale: Node) -> int | None:
    """The one axis along which the scale varies, -1 for none; ``None`` for any other layout."""
    sizes = scale.shape
    if rank(scale) > rank(value):
        return None
    varied = [axis - rank(scale) for axis, size in enumerate(sizes) if size != 1]
    if not varied:
        return -1
    (axis, *more) = varied
    return None if more or value.shape[axis] != sizes[axis] else axis + rank(value)


def _along(axis: int | None) -> dict[str, int]:
    return {} if axis is None or axis == -1 else {"axis": axis}


def _by_row(value: Node, scale: Node) -> bool:
    return rank(scale) == rank(value) and scale.shape == (*value.shape[:-1], 1)


def _vector(b: Builder, value: Node | None, dtype: torch.dtype) -> str:
    """A scale or zero point as a scalar or a vector."""
    if value is None:
        return ""
    if value.op == "param":
        flat = b.parameter(value, "flat", _flat)
        return flat if value.dtype == dtype else b.cast(flat, dtype)
    name = b.tensor(value, dtype)
    return b.op("Reshape", name, b.ints(-1)) if value.shape else name


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(()) if tensor.numel() == 1 else tensor.reshape(-1)


def _zero(b: Builder, zero_point: Node | None, scale: Node, name: str, dtype: torch.dtype) -> str:
    """The zero point in the layout of the scale."""
    if zero_point is not None:
        return _vector(b, zero_point, dtype)
    if all(size == 1 for size in scale.shape):
        return b.constant(0, dtype)
    return b.op("Expand", b.constant(0, dtype), b.op("Shape", name))


def quantize(
    b: Builder,
    node: Node,
    input: Node,
    scale: Node,
    zero_point: Node | None = None,
    dtype: torch.dtype = torch.uint8,
) -> str:
    x = b.tensor(input)
    axis = _axis(input, scale)
    rows = axis is None and _by_row(input, scale) and zero_point is None
    if axis is None and not rows:
        return _round(b, input, scale, zero_point, dtype)
    if rows:
        return _quantize_rows(b, input, b.tensor(scale), 0, dtype)
    factor = _vector(b, scale, input.dtype)
    zero = _zero(b, zero_point, scale, factor, dtype)
    return b.op("QuantizeLinear", x, factor, zero, **_along(axis))


def _round(
    b: Builder, input: Node, scale: Node, zero_point: Node | None, dtype: torch.dtype
) -> str:
    """The definition, for layouts that QuantizeLinear does not take."""
    low, high = (b.constant(limit, input.dtype) for limit in LIMITS[dtype])
    code = b.op("Round", b.op("Div", b.tensor(input), b.tensor(scale)))
    if zero_point is not None:
        code = b.op("Add", code, b.tensor(zero_point, input.dtype))
    return b.cast(b.op("Clip", code, low, high), dtype)


def _quantize_rows(b: Builder, input: Node, scale: str, zero: int, dtype: torch.dtype) -> str:
    """Codes ``[..., n]`` by a scale ``[..., 1]``."""
    x, width = b.tensor(input), int(input.shape[-1])
    matrix = x if rank(input) == 2 else b.op("Reshape", x, b.ints(-1, width))
    column = b.op("Reshape", scale, b.ints(-1))
    # Sizes of the same name are the same, so values of one shape share what follows from it.
    zeros = b.memo(
        ("zeros", zero, dtype, input.shape[:-1]),
        lambda: b.op("Expand", b.constant(zero, dtype), b.op("Shape", column)),
    )
    codes = b.op("QuantizeLinear", matrix, column, zeros, axis=0)
    if rank(input) == 2:
        return codes
    free = [size for size in input.shape if not isinstance(size, int)]
    if len(free) < 2:
        return b.op(
            "Reshape", codes, b.ints(*(s if isinstance(s, int) else -1 for s in input.shape))
        )
    return b.op("Reshape", codes, b.memo(("shape", input.shape), lambda: b.op("Shape", x)))


def dequantize(
    b: Builder, node: Node, input: Node, scale: Node, zero_point: Node | None = None
) -> str:
    axis = _axis(input, scale)
    # A constant is folded when the model is loaded, which DequantizeLinear is not; and ONNX
    # Runtime's exact mode for CPUs without VNNI (see ../../onnxruntime.py) gives one over
    # channels a zero point of the wrong shape. Behind a DequantizeLinear, the weights of a float
    # convolution would be rounded to int8 by ONNX Runtime itself.
    folded = input.op == "param" or any(user.op in LINEAR_MAPS for user in node.users)
    plain = b.dialect.runtime and folded
    if axis is None or plain or input.dtype not in _CODES:
        return floats_of(b, input, scale, zero_point)
    zero = _vector(b, zero_point, input.dtype)
    factor = _vector(b, scale, node.dtype)
    return b.op("DequantizeLinear", b.tensor(input), factor, zero, **_along(axis))


def floats_of(b: Builder, codes: Node, scale: Node, zero_point: Node | None) -> str:
    """The definition of what codes stand for; of constants it is folded at load."""
    code = b.tensor(codes, scale.dtype)
    if zero_point is not None:
        code = b.op("Sub", code, b.tensor(zero_point, scale.dtype))
    return b.op("Mul", code, b.tensor(scale))


def dynamic_quantize(
    b: Builder, node: Node, input: Node, per_token: bool = True, dtype: torch.dtype = torch.uint8
) -> tuple[str, ...]:
    x = b.tensor(input)
    low, high = LIMITS[dtype]
    if not per_token:
        return _dynamic_tensor(b, x, input, dtype)
    middle = (low + high + 1) // 2
    # Two reductions read the value twice; Abs and one reduction read it twice and write it once.
    top, bottom = (
        b.op("Div", b.op(kind, x, b.ints(-1), keepdims=1), b.constant(limit, input.dtype))
        for kind, limit in (("ReduceMax", high - middle), ("ReduceMin", middle - high))
    )
    # A row of zeros has any scale but zero.
    scale = b.op("Max", top, bottom, b.constant(torch.finfo(input.dtype).tiny, input.dtype))
    codes = _quantize_rows(b, input, scale, middle, dtype)
    return codes, scale, b.op("Expand", b.constant(middle, dtype), b.op("Shape", scale))


def _dynamic_tensor(b: Builder, x: str, input: Node, dtype: torch.dtype) -> tuple[str, ...]:
    if dtype == torch.uint8:
        return b.ops("DynamicQuantizeLinear", x, count=3)
    low, high = (b.constant(limit, input.dtype) for limit in LIMITS[dtype])
    zero, one = b.constant(0, input.dtype), b.constant(1, input.dtype)
    top = b.op("Max", b.op("ReduceMax", x, keepdims=0), zero)
    bottom = b.op("Min", b.op("ReduceMin", x, keepdims=0), zero)
    scale = b.op("Div", b.op("Sub", top, bottom), b.op("Sub", high, low))
    scale = b.op("Where", b.op("Equal", scale, zero), one, scale)
    place = b.op("Round", b.op("Sub", low, b.op("Div", bottom, scale)))
    zero_point = b.cast(b.op("Clip", place, low, high), dtype)
    return b.op("QuantizeLinear", x, scale, zero_point), scale, zero_point


def linear_integer(
    b: Builder,
    node: Node,
    codes: Node,
    scale: Node,
    zero_point: Node | int | None,
    weight: Node,
    weight_scale: Node,
    weight_zero_point: Node | None,
    bias: Node | None,
) -> str:
    """``(codes - z) s @ ((W - w) t)^T + bias``; ``s`` may be ``[..., 1]``, ``t`` ``[O, 1]``."""
    _note_sums(b, codes, weight)
    by_row = any(size != 1 for size in scale.shape)
    zero = (
        b.constant(zero_point, codes.dtype) if isinstance(zero_point, int)
        else _vector(b, zero_point, codes.dtype)
    )  # fmt: skip
    product = b.op(
        f"{MICROSOFT}MatMulIntegerToFloat",
        b.tensor(codes),
        transposed(b, weight, node),
        b.tensor(scale) if by_row else _vector(b, scale, node.dtype),
        _vector(b, weight_scale, node.dtype),
        zero,
        _vector(b, weight_zero_point, weight.dtype),
        "" if by_row else b.tensor(bias),  # the kernel adds its bias before it scales by row
    )
    return b.op("Add", product, b.tensor(bias)) if by_row and bias is not None else product


def _note_sums(b: Builder, codes: Node, weight: Node) -> None:
    if codes.dtype == torch.uint8 and weight.dtype == torch.int8:
        b.wide_sums = b.wide_sums or not fits_pairs(b.graph.value(weight))


def linear_codes(
    b: Builder,
    node: Node,
    input: Node,
    weight: Node,
    weight_scale: Node,
    weight_zero_point: Node | None,
    bias: Node | None,
) -> str:
    """``x @ ((W - w) t)^T + bias``.

    Of ONNX Runtime the weight is a float once constants are folded at load: it fuses
    DequantizeLinear into MatMulNBits, which rounds the activations as well. Others multiply the
    codes as integers, and OpenVINO does so without their zero point.
    """
    scale = _vector(b, weight_scale, node.dtype)
    if not b.dialect.runtime and weight_zero_point is None:
        rows = b.op("DequantizeLinear", b.tensor(weight), scale, axis=0)
        matrix = b.op("Transpose", rows, perm=[1, 0])
    else:
        matrix = b.cast(transposed(b, weight, node), node.dtype)
        if weight_zero_point is not None:
            matrix = b.op("Sub", matrix, _vector(b, weight_zero_point, node.dtype))
        matrix = b.op("Mul", matrix, scale)
    return affine(b, input, matrix, bias)


def embedding_codes(
    b: Builder,
    node: Node,
    weight: Node,
    weight_scale: Node,
    weight_zero_point: Node | None,
    indices: Arg,
) -> str:
    """The rows of the table, and their scales, at the indices."""
    rows = b.tensor(indices)

    def at(table: Node) -> str:
        name = b.tensor(table)
        return b.op("Gather", name, rows) if table.shape and table.shape[0] != 1 else name

    code = b.cast(at(weight), node.dtype)
    if weight_zero_point is not None:
        code = b.op("Sub", code, b.cast(at(weight_zero_point), node.dtype))
    return b.op("Mul", code, at(weight_scale))


def conv_integer(
    b: Builder,
    node: Node,
    codes: Node,
    scale: Node,
    zero_point: Node | None,
    weight: Node,
    weight_scale: Node,
    bias: Node | None,
    out_scale: Node,
    out_zero: Node | None,
    *,
    stride: Arg = 1,
    padding: Arg = 0,
    dilation: Arg = 1,
    groups: int = 1,
) -> str:
    """``quantize(conv(dequantize(codes), dequantize(W), bias))``, the bias in units of the sums."""
    _note_sums(b, codes, weight)
    operands = [
        b.tensor(codes),
        _vector(b, scale, torch.float32),
        _vector(b, zero_point, codes.dtype) or b.constant(0, codes.dtype),
        b.tensor(weight),
        _vector(b, weight_scale, torch.float32),
        # one for each weight: where sums are wide, ONNX Runtime rewrites both, and fails where it
        # finds a zero rewritten
        b.parameter(weight, "zero", lambda codes: torch.zeros((), dtype=codes.dtype)),
        _vector(b, out_scale, torch.float32),
        _vector(b, out_zero, node.dtype) or b.constant(0, node.dtype),
    ]
    if bias is not None:
        values = (b.graph.value(part) for part in (bias, scale, weight_scale))
        operands.append(b.constant(bias_codes(*values), torch.int32))
    attributes = conv_attributes(weight, stride, padding, dilation, groups)
    return b.op("QLinearConv", *operands, **attributes)


def add_integer(
    b: Builder,
    node: Node,
    left: Node,
    left_scale: Node,
    left_zero: Node | None,
    right: Node,
    right_scale: Node,
    right_zero: Node | None,
    out_scale: Node,
    out_zero: Node | None,
) -> str:
    """``quantize(dequantize(left) + dequantize(right))``."""
    operands: list[str] = []
    for codes, scale, zero in ((left, left_scale, left_zero), (right, right_scale, right_zero)):
        factor = _vector(b, scale, torch.float32)
        operands += [b.tensor(codes), factor, _zero(b, zero, scale, factor, codes.dtype)]
    factor = _vector(b, out_scale, torch.float32)
    zero = _zero(b, out_zero, out_scale, factor, node.dtype)
    return b.op(f"{MICROSOFT}QLinearAdd", *operands, factor, zero)


LOWERINGS = {
    "ort.add_integer": add_integer,
    "ort.conv_integer": conv_integer,
    "quantize": quantize,
    "dequantize": dequantize,
    "dynamic_quantize": dynamic_quantize,
    "ort.linear_integer": linear_integer,
    "ort.linear_codes": linear_codes,
    "ort.embedding_codes": embedding_codes,
}
