"""Codes from floats and back, and sums and linear layers on codes."""

from __future__ import annotations

import torch

from ....ir import Node
from ..program import Program, Value
from .pointwise import operands
from .windows import signed, starts, zero_point


def scale_of(program: Program, scale: Node, node: Node) -> float:
    """The one scale of a tensor, as a number."""
    return program.single(program.fixed(scale, "a scale", node), "scale", node)


def quantize(program: Program, node: Node) -> Value:
    """``quantize_u8``"""
    source, scale, *zero = node.args
    middle = zero_point(program, zero[0] if zero else None, node)
    x, factor = program.operand(source), scale_of(program, scale, node)
    y = program.result(node, channels_last=x.channels_last)
    return program.call(f"quantize_{y.kind}", x, y, x.count, factor, middle, into=y)


def dequantize(program: Program, node: Node) -> Value | None:
    """``dequantize_u8``; nothing where all that read it take codes."""
    source, scale, *zero = node.args
    if node.users and all(_takes_codes(program, user) for user in node.users):
        return None
    middle = zero_point(program, zero[0] if zero else None, node)
    x, factor = program.operand(source), scale_of(program, scale, node)
    if node.users.keys() == {program.graph.output}:
        x = program.plain(x)  # while it is small
    y = program.result(node, channels_last=x.channels_last)
    return program.call(f"dequantize_{x.kind}", x, y, x.count, factor, middle, into=y)


def _takes_codes(program: Program, node: Node) -> bool:
    """Whether it is a mean along whole axes, or the place of the greatest."""
    adaptive = node.op in ("adaptive_avg_pool1d", "adaptive_avg_pool2d")
    return node.op in ("mean", "argmax") or (adaptive and set(program.shape(node)[2:]) == {1})


def add_integer(program: Program, node: Node) -> Value:
    """``add_u8``, with the zero points of all three as one number."""
    left, left_scale, left_zero, right, right_scale, right_zero, scale, zero = node.args
    unit = program.fixed(scale, "a scale", node).reshape(())
    ratios = [
        program.fixed(part, "a scale", node).reshape(()) / unit
        for part in (left_scale, right_scale)
    ]
    shifts = [zero_point(program, part, node) for part in (left_zero, right_zero)]
    # As its kernel for AVX2 has it: of the two products only the right one is rounded by itself.
    shift = (ratios[0].double() * shifts[0] + (ratios[1] * shifts[1]).double()).float()
    rest = zero_point(program, zero, node) - shift
    first, second = program.operand(left), program.operand(right)
    a, b, repeats = operands(program, node, first, second, swaps=False)
    y = program.result(node, channels_last=a.channels_last)
    numbers = (ratios[0].item(), ratios[1].item(), float(rest))
    return program.call(f"add_{y.kind}", a, b, y, y.count, *repeats, *numbers, into=y, over=a)


def mul_integer(program: Program, node: Node) -> Value:
    """``mul_u8``"""
    left, left_scale, left_zero, right, right_scale, right_zero, scale, zero = node.args
    steps = [
        program.fixed(part, "a scale", node).reshape(())
        for part in (left_scale, right_scale, scale)
    ]
    first, second = program.operand(left), program.operand(right)
    a, b, repeats = operands(program, node, first, second, swaps=True)
    shifts = [zero_point(program, part, node) for part in (left_zero, right_zero)]
    if a.count == second.count != first.count:
        shifts.reverse()
    y = program.result(node, channels_last=a.channels_last)
    numbers = (*shifts, (steps[0] * steps[1] / steps[2]).item(), zero_point(program, zero, node))
    return program.call(f"mul_{y.kind}", a, b, y, y.count, *repeats, *numbers, into=y, over=a)


def table(program: Program, node: Node) -> Value:
    """``table_u8``"""
    x = program.operand(node.args[0])
    values = program.operand(node.args[1])
    y = program.result(node, channels_last=x.channels_last)
    return program.call(f"table_{y.kind}", x, values, y, y.count, into=y, over=x)


def linear_integer(program: Program, node: Node) -> Value:
    """``linear_u8``: floats from codes and codes of weights."""
    source, scale, zero, weight, weight_scale, weight_zero, bias = node.args
    step = program.fixed(scale, "a scale", node).reshape(-1)
    codes = signed(program.fixed(weight, "a weight", node), weight, node)
    if zero_point(program, weight_zero, node):
        raise program.refuses("a zero point of weights", node)
    outputs, inputs = codes.shape
    factors = step * program.fixed(weight_scale, "a scale", node).reshape(-1)
    x, y = program.plain(program.operand(source)), program.result(node)
    none = torch.zeros(outputs, dtype=torch.int32)
    start = starts(codes, none, zero_point(program, zero, node), x.kind, node)
    offset = torch.zeros(outputs) if bias is None else program.fixed(bias, "a bias", node)
    w = program.constant(weight.name, codes)
    s = program.constant(f"{node.name}_start", start)
    f = program.constant(f"{node.name}_scale", factors.expand(outputs).contiguous())
    b = program.constant(f"{node.name}_bias", offset)
    sizes = (x.count // inputs, inputs, outputs)
    return program.call(f"linear_{x.kind}", x, w, s, f, b, y, *sizes, into=y)


LOWERINGS = {
    "quantize": quantize,
    "dequantize": dequantize,
    "ort.add_integer": add_integer,
    "ort.linear_integer": linear_integer,
    "c.mul_integer": mul_integer,
    "c.table": table,
}
