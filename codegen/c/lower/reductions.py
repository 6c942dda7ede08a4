"""What is made of all numbers along some axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ....ir import Node
from ....ir.graph import Arg
from ..program import Program, Value
from .codes import scale_of
from .pointwise import run
from .windows import adaptive, average, zero_point


def axes_of(program: Program, node: Node) -> list[int]:
    """The axes that an op goes along, all where it says none."""
    dim: Arg = node.attrs.get("dim")
    rank = len(program.shape(node.args[0]))
    axes = range(rank) if dim in (None, ()) else dim if isinstance(dim, tuple) else (dim,)
    return sorted(int(axis) % rank for axis in axes) if rank else []  # type: ignore[arg-type]


def _split(program: Program, x: Value, axes: Sequence[int]) -> tuple[Value, tuple[int, int, int]]:
    """The value, maybe in another order, as ``[outer][count][inner]`` with the axes in the
    middle."""
    rank = len(x.shape)
    for last in (x.channels_last, not x.channels_last):
        if last and (rank < 3 or (0 in axes and len(axes) < rank)):
            continue
        order = [0, *range(2, rank), 1] if last else list(range(rank))
        found = run([x.shape[a] for a in order], [a in axes for a in order])
        if found is not None:
            outer, inner = found
            x = program.channels_last(x) if last else program.plain(x)
            return x, (outer, x.count // (outer * inner), inner)
    x, rest = program.plain(x), [axis for axis in range(rank) if axis not in axes]
    x = program.permuted(x, [*rest, *axes])
    count = math.prod(x.shape[len(rest) :])
    return x, (x.count // count, count, 1)


def _lies(x: Value, axes: Sequence[int], keep: bool) -> bool:
    """Whether the channels of a result lie side by side still."""
    rest = [axis for axis in range(2, len(x.shape)) if axis not in axes]
    return x.channels_last and (keep or (1 not in axes and bool(rest) and 0 not in axes))


def _result(program: Program, node: Node, x: Value, axes: Sequence[int]) -> Value:
    keep = len(program.shape(node)) == len(x.shape) and bool(x.shape)
    return program.result(node, channels_last=_lies(x, axes, keep))


def mean(program: Program, node: Node) -> Value:
    """``mean_f32``, or ``mean_u8`` of what codes stand for."""
    return _mean(program, node, axes_of(program, node))


def _mean(program: Program, node: Node, axes: Sequence[int]) -> Value:
    source = node.args[0]
    codes = source.op == "dequantize" and source not in program.values
    x, sizes = _split(program, program.operand(source.args[0] if codes else source), axes)
    y = _result(program, node, x, axes)
    if not codes:
        return program.call("mean_f32", x, y, *sizes, into=y)
    scale = scale_of(program, source.args[1], node)
    middle = zero_point(program, source.args[2] if len(source.args) > 2 else None, node)
    return program.call(f"mean_{x.kind}", x, y, *sizes, scale, middle, into=y)


def adaptive_avg_pool(program: Program, node: Node) -> Value:
    """The mean over an image, or over windows that share it out."""
    given, wanted = program.shape(node.args[0])[2:], program.shape(node)[2:]
    if all(size == 1 for size in wanted):
        return _mean(program, node, range(2, 2 + len(given)))
    if any(size % want for size, want in zip(given, wanted, strict=True)):
        return adaptive(program, node, "adaptive_average_f32")
    kernel = [size // want for size, want in zip(given, wanted, strict=True)]
    return average(program, node, kernel, padded=False)


def adaptive_max_pool(program: Program, node: Node) -> Value:
    """``adaptive_max_u8``, also of floats."""
    return adaptive(program, node, f"adaptive_max_{program.operand(node.args[0]).kind}")


def extreme(program: Program, node: Node) -> Value:
    """``max_u8`` and ``min_u8``, also of floats."""
    axes = axes_of(program, node)
    x, sizes = _split(program, program.operand(node.args[0]), axes)
    y = _result(program, node, x, axes)
    return program.call(f"{node.op.removeprefix('a')}_{x.kind}", x, y, *sizes, into=y)


def argmax(program: Program, node: Node) -> Value:
    """``argmax_u8``: codes are in the order of what they stand for."""
    source = node.args[0]
    codes = source.op == "dequantize" and source not in program.values
    value, axes = program.operand(source.args[0] if codes else source), axes_of(program, node)
    if node.attrs.get("dim") is None:
        value = program.plain(value)
    x, sizes = _split(program, value, axes)
    y = _result(program, node, x, axes)
    return program.call(f"argmax_{x.kind}", x, y, *sizes, into=y)


def floats(program: Program, node: Node) -> Value:
    """Sums, lengths and variances of floats."""
    axes = axes_of(program, node)
    x, sizes = _split(program, program.floats(node.args[0], node), axes)
    y = _result(program, node, x, axes)
    if node.op == "sum":
        return program.call("sum_f32", x, y, *sizes, into=y)
    if node.op == "linalg_vector_norm":
        if node.attrs.get("ord", 2) != 2:
            raise program.refuses("an order that is not 2", node)
        return program.call("length_f32", x, y, *sizes, into=y)
    less = node.attrs.get("correction", 1 if node.attrs.get("unbiased", True) else 0)
    numbers = (float(1 if less is None else less), int("std" in node.op))  # type: ignore[arg-type]
    return program.call("variance_f32", x, y, *sizes, *numbers, into=y)


def softmax(program: Program, node: Node) -> Value:
    """``softmax_f32``"""
    axis = int(node.attrs["dim"]) % len(program.shape(node))
    x, sizes = _split(program, program.floats(node.args[0], node), [axis])
    y = program.result(node, channels_last=x.channels_last)
    logarithm = int(node.op == "log_softmax")
    return program.call("softmax_f32", x, y, *sizes, logarithm, into=y, over=x)


def norm(program: Program, node: Node) -> Value:
    """``norm_f32``: by layer, by group or by channel of each example."""
    source, *rest = node.args
    shape, x = program.shape(node), program.plain(program.floats(source, node))
    if node.op in ("layer_norm", "rms_norm"):
        count = math.prod(node.attrs["normalized_shape"])
        groups, side, weights = 1, 1, count
    else:
        groups = int(node.attrs.get("num_groups", shape[1]))
        side, weights = math.prod(shape[2:]), shape[1]
        count = math.prod(shape[1:]) // groups
    parts = [program.fixed(p, "a weight", node) if p is not None else None for p in rest[:2]]
    weight, bias = (*parts, None, None)[:2]
    if node.op == "aten.instance_norm.default" and not node.attrs.get("use_input_stats", True):
        raise program.refuses("statistics of its own", node)
    epsilon = node.attrs.get("eps")
    epsilon = (1.2e-7 if node.op == "rms_norm" else 1e-5) if epsilon is None else float(epsilon)
    w = program.per_channel(node, "weight", weight, weights, 1.0)
    b = program.per_channel(node, "bias", bias, weights, 0.0)
    y = replace(program.result(node), shape=shape)
    sizes = (x.count // count, count, groups, side, int(node.op != "rms_norm"))
    return program.call("norm_f32", x, w, b, y, *sizes, epsilon, into=y, over=x)


LOWERINGS = {
    "mean": mean,
    **{f"adaptive_avg_pool{n}d": adaptive_avg_pool for n in (1, 2)},
    "c.adaptive_max_pool": adaptive_max_pool,
    "amax": extreme,
    "amin": extreme,
    "argmax": argmax,
    **dict.fromkeys(("sum", "linalg_vector_norm"), floats),
    **{f"aten.{op}.{kind}": floats for op in ("std", "var") for kind in ("dim", "correction")},
    "softmax": softmax,
    "log_softmax": softmax,
    **dict.fromkeys(("layer_norm", "rms_norm", "group_norm", "aten.instance_norm.default"), norm),
}
