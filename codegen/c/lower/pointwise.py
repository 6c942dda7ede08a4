"""What is computed in float32 position by position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from ....ir import Node
from ....ir.clips import CLIPS, clip_limits
from ..kernels.pointwise import BINARY, UNARY
from ..program import Program, Value

_COMMUTE = ("add", "mul", "maximum", "minimum")


def _kind_of(node: Node) -> str:
    """What a function is called in the tables."""
    name = node.op.removeprefix("aten.").removesuffix(".default")
    if name == "gelu" and node.attrs.get("approximate", "none") != "none":
        return "gelu_tanh"
    return name


def unary(program: Program, node: Node) -> Value:
    """A function of each number."""
    kind = _kind_of(node)
    function = UNARY[kind]
    known = {*function.attributes, "approximate"}
    if more := [key for key, value in node.attrs.items() if key not in known and value]:
        raise program.refuses(more[0], node)
    numbers = [float(node.attrs.get(key, rest)) for key, rest in function.attributes.items()]  # type: ignore[arg-type]
    x = program.floats(node.args[0], node)
    y = program.result(node, channels_last=x.channels_last)
    return program.call(f"{kind}_f32", x, y, x.count, *numbers, into=y, over=x)


def clamp(program: Program, node: Node) -> Value:
    """``clamp_f32``: also relu, relu6 and hardtanh."""
    low, high = clip_limits(node)
    if isinstance(low, Node) or isinstance(high, Node):
        raise program.refuses("limits that are computed", node)
    limits = (
        -math.inf if low is None else float(low),
        math.inf if high is None else float(high),
    )
    x = program.floats(node.args[0], node)
    y = program.result(node, channels_last=x.channels_last)
    return program.call("clamp_f32", x, y, x.count, *limits, into=y, over=x)


def binary(program: Program, node: Node) -> Value:
    """A function of two numbers; one operand may be repeated."""
    if node.attrs.get("alpha", 1) != 1 or node.attrs.get("rounding_mode") is not None:
        raise program.refuses("alpha" if "alpha" in node.attrs else "rounding_mode", node)
    kind, shape = _kind_of(node), program.shape(node)
    one, other = (program.floats(arg, node) for arg in node.args)
    if kind == "pow" and node.args[1] == 2:
        y = program.result(node, channels_last=one.channels_last)
        return program.call("square_f32", one, y, y.count, into=y, over=one)
    if kind == "prelu" and len(shape) > 2:
        other = replace(other, shape=(*other.shape, *(1,) * (len(shape) - 2)))
    one, other, repeats = operands(program, node, one, other, swaps=kind in _COMMUTE)
    y = program.result(node, channels_last=one.channels_last)
    return program.call(f"{kind}_f32", one, other, y, y.count, *repeats, into=y, over=one)


def operands(
    program: Program, node: Node, one: Value, other: Value, *, swaps: bool
) -> tuple[Value, Value, tuple[int, int]]:
    """Two operands, the first as large as the result, and how the other is repeated: how many
    places side by side read the same number, and how many numbers there are.

    Args:
        swaps: Whether their order makes no difference.
    """
    shape = program.shape(node)
    if one.shape != shape and swaps:
        one, other = other, one
    if one.shape != shape:
        one = program.repeated(one, shape)
    if other.shape == shape:
        one, other = program.alike(one, other)
        return one, other, (1, one.count)
    if other.channels_last:
        other = program.plain(other)
    repeats = _repeats(one, other)
    if repeats is None:
        one = program.plain(one)
        repeats = _repeats(one, other)
    if repeats is None:
        other = program.repeated(other, shape)
        repeats = 1, one.count
    return one, other, repeats


def _repeats(one: Value, other: Value) -> tuple[int, int] | None:
    """How a smaller operand in PyTorch's order is repeated, if places that lie together read it."""
    padded = (*(1,) * (len(one.shape) - len(other.shape)), *other.shape)
    order = list(range(len(one.shape)))
    if one.channels_last:
        if sum(size != 1 for size in padded) > 1:
            return None
        order = [0, *order[2:], 1]
    found = run([one.shape[axis] for axis in order], [padded[axis] != 1 for axis in order])
    return None if found is None else (found[1], other.count)


def run(sizes: Sequence[int], chosen: Sequence[bool]) -> tuple[int, int] | None:
    """The product of the sizes before and after the chosen axes; ``None`` if others lie between."""
    axes = [axis for axis, size in enumerate(sizes) if chosen[axis] and size != 1]
    if not axes:
        return math.prod(sizes), 1
    between = sizes[axes[0] : axes[-1] + 1]
    if math.prod(between) != math.prod(sizes[axis] for axis in axes):
        return None
    return math.prod(sizes[: axes[0]]), math.prod(sizes[axes[-1] + 1 :])


def cast(program: Program, node: Node) -> Value:
    """Floats of bytes."""
    x = program.operand(node.args[0])
    if node.dtype != torch.float32:
        raise program.refuses(f"a result in {node.type}", node)
    if x.kind == "f32":
        return x
    y = program.result(node, channels_last=x.channels_last)
    return program.call(f"dequantize_{x.kind}", x, y, x.count, 1.0, 0, into=y)


_ATEN = ("sign", "square", "ceil", "log_sigmoid", "hardshrink", "softshrink", "celu", "selu")
LOWERINGS = {
    **{name: unary for name in UNARY if name not in (*_ATEN, "gelu_tanh")},
    **{f"aten.{name}.default": unary for name in _ATEN},
    **{name: binary for name in BINARY if name != "prelu"},
    "aten.prelu.default": binary,
    **dict.fromkeys(CLIPS, clamp),
    "to": cast,
}
