"""What is computed in float32, and changes of shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from ....ir import Node
from ....ir.clips import CLIPS, clip_limits
from ....ir.graph import Arg
from ....ir.own import dequantize
from ..program import Program, Value
from .codes import scale_of
from .windows import average, zero_point


def linear(program: Program, node: Node) -> Value:
    """``linear_f32``"""
    source, weight, *bias = node.args
    matrix = program.fixed(weight, "a weight", node)
    return _linear(program, node, source, weight.name, matrix, bias[0] if bias else None)


def linear_codes(program: Program, node: Node) -> Value:
    """``linear_f32`` with the weights that codes stand for."""
    source, weight, scale, zero, bias = node.args
    parts = [
        None if part is None else program.fixed(part, "a scale", node) for part in (scale, zero)
    ]
    assert parts[0] is not None
    codes = program.fixed(weight, "a weight", node)
    ones = (-1, *(1,) * (codes.dim() - 1))
    parts = [None if part is None else part.reshape(ones) for part in parts]
    matrix = dequantize(codes, *parts)  # type: ignore[arg-type]
    program.note_floats(weight)
    return _linear(program, node, source, weight.name, matrix, bias)


def _linear(
    program: Program, node: Node, source: Node, name: str, matrix: torch.Tensor, bias: Node | None
) -> Value:
    outputs, inputs = matrix.shape
    offset = torch.zeros(outputs) if bias is None else program.fixed(bias, "a bias", node)
    x, y = program.plain(program.operand(source)), program.result(node)
    w = program.constant(name, matrix)
    b = program.constant(f"{node.name}_bias", offset)
    sizes = (x.count // inputs, inputs, outputs)
    return program.call("linear_f32", x, w, b, y, *sizes, into=y)


def binary(program: Program, node: Node) -> Value:
    """``add_f32`` and ``mul_f32``; one operand may be repeated along axes that lie together."""
    if node.attrs.get("alpha", 1) != 1:
        raise program.refuses("alpha", node)
    shape = program.shape(node)
    one, other = (program.operand(arg) for arg in node.args)
    if one.shape != shape:
        one, other = other, one
    if one.shape != shape:
        raise program.refuses("two operands that are both repeated", node)
    if other.shape == shape:
        one, other = program.alike(one, other)
    sizes = [size for size in other.shape if size != 1]
    if one.channels_last and other.shape != shape and len(sizes) > 1:
        one, other = program.plain(one), program.plain(other)
    side, period = _repeats(program, node, one, other)
    y = program.result(node, channels_last=one.channels_last)
    kernel = f"{node.op}_f32"
    return program.call(kernel, one, other, y, y.count, side, period, into=y, over=one)


def _repeats(program: Program, node: Node, one: Value, other: Value) -> tuple[int, int]:
    """How many places side by side read the same number, and how many numbers there are."""
    if other.shape == one.shape:
        return 1, one.count
    padded = (*(1,) * (len(one.shape) - len(other.shape)), *other.shape)
    order = list(range(len(one.shape)))
    if one.channels_last:
        order = [0, *order[2:], 1]
    run = _run([one.shape[axis] for axis in order], [padded[axis] != 1 for axis in order])
    if run is None:
        raise program.refuses("an operand repeated between its axes", node)
    return run[1], other.count


def _run(sizes: Sequence[int], chosen: Sequence[bool]) -> tuple[int, int] | None:
    """The product of the sizes before and after the chosen axes; ``None`` if others lie between."""
    axes = [axis for axis, size in enumerate(sizes) if chosen[axis] and size != 1]
    if not axes:
        return math.prod(sizes), 1
    between = sizes[axes[0] : axes[-1] + 1]
    if math.prod(between) != math.prod(sizes[axis] for axis in axes):
        return None
    return math.prod(sizes[: axes[0]]), math.prod(sizes[axes[-1] + 1 :])


def clamp(program: Program, node: Node) -> Value:
    """``clamp_f32``: also relu, relu6 and hardtanh."""
    low, high = clip_limits(node)
    limits = (
        -math.inf if low is None else float(low),
        math.inf if high is None else float(high),
    )
    x = program.operand(node.args[0])
    y = program.result(node, channels_last=x.channels_last)
    return program.call("clamp_f32", x, y, x.count, *limits, into=y, over=x)


def mean(program: Program, node: Node) -> Value:
    """``mean_f32``, or ``mean_u8`` of what codes stand for."""
    dim: Arg = node.attrs.get("dim")
    shape = program.shape(node.args[0])
    axes = range(len(shape)) if dim in (None, ()) else dim if isinstance(dim, tuple) else (dim,)
    return _mean(program, node, [axis % len(shape) for axis in axes])


def _mean(program: Program, node: Node, axes: Sequence[int]) -> Value:
    source = node.args[0]
    codes = source.op == "dequantize" and source not in program.values
    x = program.operand(source.args[0] if codes else source)
    positions = [*range(2, len(x.shape))]
    if x.channels_last and sorted(axes) == positions:
        sizes = (x.shape[0], math.prod(x.shape[2:]), x.shape[1])
    else:
        x = program.plain(x)
        run = _run(x.shape, [axis in axes for axis in range(len(x.shape))])
        if run is None:
            raise program.refuses("axes with others between them", node)
        sizes = (run[0], x.count // (run[0] * run[1]), run[1])
    y = program.result(node)
    if not codes:
        return program.call("mean_f32", x, y, *sizes, into=y)
    scale = scale_of(program, source.args[1], node)
    middle = zero_point(program, source.args[2] if len(source.args) > 2 else None, node)
    return program.call(f"mean_{x.kind}", x, y, *sizes, scale, middle, into=y)


def adaptive_avg_pool(program: Program, node: Node) -> Value:
    """The mean over an image, or over windows of one size."""
    given, wanted = program.shape(node.args[0])[2:], program.shape(node)[2:]
    if all(size == 1 for size in wanted):
        return _mean(program, node, range(2, 2 + len(given)))
    if any(size % want for size, want in zip(given, wanted, strict=True)):
        raise program.refuses("windows of unequal sizes", node)
    kernel = [size // want for size, want in zip(given, wanted, strict=True)]
    return average(program, node, kernel, padded=False)


def softmax(program: Program, node: Node) -> Value:
    """``softmax_f32``, over the last axis."""
    shape = program.shape(node)
    if int(node.attrs["dim"]) % len(shape) != len(shape) - 1:
        raise program.refuses("an axis that is not the last", node)
    x, y = program.plain(program.operand(node.args[0])), program.result(node)
    return program.call("softmax_f32", x, y, x.count // shape[-1], shape[-1], into=y, over=x)


def reshape(program: Program, node: Node) -> Value:
    """The same numbers in another shape: nothing is computed."""
    return replace(program.plain(program.operand(node.args[0])), shape=program.shape(node))


def same(program: Program, node: Node) -> Value:
    """The value itself."""
    return program.operand(node.args[0])


LOWERINGS = {
    "linear": linear,
    "ort.linear_codes": linear_codes,
    "add": binary,
    "mul": binary,
    **dict.fromkeys(CLIPS, clamp),
    "mean": mean,
    **{f"adaptive_avg_pool{n}d": adaptive_avg_pool for n in (1, 2)},
    "softmax": softmax,
    **{op: reshape for op in ("reshape", "unsqueeze", "squeeze")},
    **{op: same for op in ("clone", "contiguous")},
}
