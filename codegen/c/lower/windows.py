"""Convolutions and pooling, over one axis or two: over one, an image has a single row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from ....ir import Node, TargetError
from ....ir.codes import bias_codes, in_kernel_order
from ....ir.graph import Arg
from ..program import Program, Value, Window

_MOST = 2**31 - 1


def _pair(value: Arg, node: Node, count: int) -> tuple[int, int]:
    """Numbers for rows and columns, given as one for all or one each."""
    many: Sequence[Arg] = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(part, int) for part in many):
        raise TargetError(f"target 'c' needs the window of {node.name} as numbers", where=node.at)
    many = [*many] * (count // len(many))
    return (many[0], many[1]) if count == 2 else (0, many[0])


def _padding(node: Node, kernel: Sequence[int], dilation: Sequence[int]) -> Arg:
    """What is before the image; what is after it follows from the size of the result."""
    padding = node.attrs.get("padding", 0)
    if padding == "valid":
        return 0
    if padding == "same":
        return tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
    if isinstance(padding, tuple) and len(padding) == 2 * len(kernel):
        return padding[: len(kernel)]
    return padding


def _window(program: Program, node: Node, source: Node, kernel: Sequence[int]) -> Window:
    """The window of an op, whose result says how often it moves."""
    count = len(kernel)
    seen, given = program.shape(source), program.shape(node)
    if count not in (1, 2) or len(seen) != count + 2:
        raise TargetError(
            f"target 'c' has no kernel for {node.op} of a value with {len(seen)} axes",
            where=node.at,
            do="give it a batch of images, [N, C, H, W], or of rows, [N, C, L]",
        )
    attrs, rows = node.attrs, (1,) * (2 - count)
    stride = attrs.get("stride", tuple(kernel) if "pool" in node.op else 1)
    stride = tuple(kernel) if stride == () else stride
    dilation = _pair(attrs.get("dilation", 1), node, count)
    before = _padding(node, kernel, dilation[2 - count :])
    return Window(
        batch=seen[0],
        size=(*rows, *seen[2:])[:2],  # type: ignore[arg-type]
        channels=seen[1],
        out_size=(*rows, *given[2:])[:2],  # type: ignore[arg-type]
        out_channels=given[1],
        kernel=(*rows, *kernel)[:2],  # type: ignore[arg-type]
        stride=_pair(stride, node, count),
        before=_pair(before, node, count),
        dilation=dilation,
        groups=int(attrs.get("groups", 1)),
    )


def _scratch(program: Program, kind: str, window: Window) -> Value:
    """A place for what one position of the window sees."""
    depth = window.channels // window.groups
    return program.new("patch", kind, (math.prod(window.kernel) * depth,))


def conv(program: Program, node: Node) -> Value:
    """``conv_f32``: a convolution of floats."""
    source, weight, *rest = node.args
    matrix = in_kernel_order(program.fixed(weight, "a weight", node))
    window = _window(program, node, source, [int(size) for size in weight.shape[2:]])
    bias = rest[0] if rest else None
    offset = (
        torch.zeros(window.out_channels) if bias is None else program.fixed(bias, "a bias", node)
    )
    x = program.channels_last(program.operand(source))
    y = program.result(node, channels_last=True)
    patch = _scratch(program, "f32", window)
    w = program.constant(weight.name, matrix)
    b = program.constant(f"{node.name}_bias", offset)
    return program.call("conv_f32", x, w, b, y, patch, window, into=y, scratch=(patch,))


def conv_integer(program: Program, node: Node) -> Value:
    """``conv_u8``, or ``depthwise_u8`` where each channel has a window of its own."""
    source, scale, zero, weight, weight_scale, bias, out_scale, out_zero = node.args
    window = _window(program, node, source, [int(size) for size in weight.shape[2:]])
    step, weight_step = (
        program.fixed(part, "a scale", node).reshape(-1) for part in (scale, weight_scale)
    )
    middle, out_middle = (zero_point(program, part, node) for part in (zero, out_zero))
    rows = in_kernel_order(program.fixed(weight, "a weight", node))
    rows = signed(rows, weight, node)
    offset = torch.zeros(window.out_channels, dtype=torch.int32)
    if bias is not None:
        offset = bias_codes(program.fixed(bias, "a bias", node), step, weight_step)
    ratio = step * weight_step / program.fixed(out_scale, "a scale", node).reshape(-1)
    ratio = ratio.expand(window.out_channels).contiguous()

    x = program.channels_last(program.operand(source))
    y = program.result(node, channels_last=True)
    depthwise = window.groups == window.channels == window.out_channels
    start = starts(rows, offset, 0 if depthwise else middle, x.kind, node)
    w = program.constant(weight.name, rows.T.contiguous() if depthwise else rows)
    s = program.constant(f"{node.name}_start", start)
    r = program.constant(f"{node.name}_scale", ratio)
    if depthwise:
        kernel = f"depthwise_{x.kind}"
        return program.call(kernel, x, w, s, r, y, middle, out_middle, window, into=y)
    patch = _scratch(program, x.kind, window)
    return program.call(
        f"conv_{x.kind}",
        x,
        w,
        s,
        r,
        y,
        patch,
        middle,
        out_middle,
        window,
        into=y,
        scratch=(patch,),
    )


def zero_point(program: Program, zero: Arg, node: Node) -> int:
    """A zero point as a number."""
    if zero is None or isinstance(zero, int):
        return zero or 0
    return int(program.fixed(zero, "a zero point", node).item())


def signed(rows: torch.Tensor, weight: Node, node: Node) -> torch.Tensor:
    """Codes of weights, which must be int8."""
    if weight.dtype == torch.int8:
        return rows
    raise TargetError(
        f"target 'c' takes codes of weights as int8, and those of {node.name} are {weight.type}",
        where=node.at,
        do="choose symmetric weights, such as passes='w8a8'",
    )


def starts(
    rows: torch.Tensor, offset: torch.Tensor, middle: int, kind: str, node: Node
) -> torch.Tensor:
    """What sums begin with, for codes ``[O, n]`` and zero points taken out of all products at once.

    Raises:
        TargetError: A sum may leave 32 bits.
    """
    begin = offset.long() - middle * rows.long().sum(1)
    worst = (begin.abs() + (255 if kind == "u8" else 128) * rows.long().abs().sum(1)).max()
    if worst > _MOST:
        raise TargetError(
            f"sums of {node.name} may reach {int(worst)}, more than 32 bits hold",
            where=node.at,
            do="leave this layer in floating point, or make it smaller",
        )
    return begin.to(torch.int32)


def max_pool(program: Program, node: Node) -> Value:
    """``max_pool_u8``, also of floats."""
    source = node.args[0]
    count = int(node.op[-2])
    kernel = _pair(node.attrs["kernel_size"], node, count)[2 - count :]
    window = _window(program, node, source, kernel)
    x = program.channels_last(program.operand(source))
    y = program.result(node, channels_last=True)
    return program.call(f"max_pool_{x.kind}", x, y, window, into=y)


def avg_pool(program: Program, node: Node) -> Value:
    """``average_f32``"""
    if node.attrs.get("divisor_override") is not None:
        raise program.refuses("divisor_override", node)
    count = int(node.op[-2])
    kernel = _pair(node.attrs["kernel_size"], node, count)[2 - count :]
    return average(program, node, kernel, padded=bool(node.attrs.get("count_include_pad", True)))


def average(program: Program, node: Node, kernel: Sequence[int], *, padded: bool) -> Value:
    """Means of windows; whether the padding counts."""
    window = _window(program, node, node.args[0], kernel)
    x = program.channels_last(program.operand(node.args[0]))
    y = program.result(node, channels_last=True)
    return program.call("average_f32", x, y, int(padded), window, into=y)


def adaptive(program: Program, node: Node, kernel: str) -> Value:
    """Windows that share an image out."""
    window = _window(program, node, node.args[0], [1] * (len(program.shape(node)) - 2))
    x = program.channels_last(program.operand(node.args[0]))
    y = program.result(node, channels_last=True)
    return program.call(kernel, x, y, window, into=y)


def bilinear(program: Program, node: Node) -> Value:
    """``bilinear_f32``"""
    window = _window(program, node, node.args[0], [1, 1])
    corners = bool(node.attrs["align_corners"])
    factors: Arg = node.attrs.get("scale_factors")
    steps: list[float] = []
    for axis, (size, out) in enumerate(zip(window.size, window.out_size, strict=True)):
        if corners:
            steps.append((size - 1) / max(out - 1, 1))
        elif isinstance(factors, tuple):
            steps.append(1 / float(factors[axis]))  # type: ignore[arg-type]
        else:
            steps.append(size / out)
    x = program.channels_last(program.floats(node.args[0], node))
    y = program.result(node, channels_last=True)
    return program.call("bilinear_f32", x, y, *steps, 0.0 if corners else 0.5, window, into=y)


def conv_transpose(program: Program, node: Node) -> Value:
    """``conv_transpose_f32``"""
    source, weight, *rest = node.args
    window = _window(program, node, source, [int(size) for size in weight.shape[2:]])
    window = replace(window, stride=(max(window.stride[0], 1), window.stride[1]))  # it divides
    matrix = program.fixed(weight, "a weight", node)  # [I, O / groups, ...]
    parts = matrix.unflatten(0, (window.groups, -1)).transpose(1, 2).flatten(0, 1)
    bias = program.fixed(rest[0], "a bias", node) if rest and rest[0] is not None else None
    x = program.channels_last(program.floats(source, node))
    y = program.result(node, channels_last=True)
    w = program.constant(weight.name, in_kernel_order(parts))
    b = program.per_channel(node, "bias", bias, window.out_channels, 0.0)
    return program.call("conv_transpose_f32", x, w, b, y, window, into=y)


LOWERINGS = {
    "conv1d": conv,
    "conv2d": conv,
    "conv_transpose1d": conv_transpose,
    "conv_transpose2d": conv_transpose,
    "upsample_bilinear2d": bilinear,
    "ort.conv_integer": conv_integer,
    **{f"max_pool{n}d": max_pool for n in (1, 2)},
    **{f"avg_pool{n}d": avg_pool for n in (1, 2)},
}
