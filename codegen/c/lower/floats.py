"""Linear layers, means and softmax in float32."""

from __future__ import annotations

import torch

from ....ir import Node
from ....ir.own import dequantize
from ..program import Program, Value


def linear(program: Program, node: Node) -> Value:
    """``linear_f32``"""
    source, weight, *bias = node.args
    matrix = program.fixed(weight, "a weight", node)
    return _linear(program, node, source, weight.name, matrix, bias[0] if bias else None)


def linear_codes(program: Program, node: Node) -> Value:
    """``linear_f32`` with the weights that codes stand for."""
    source, weight, scale, zero, bias = node.args
    return _linear(
        program, node, source, weight.name, decoded(program, node, weight, scale, zero), bias
    )


def decoded(
    program: Program, node: Node, codes: Node, scale: Node, zero: Node | None
) -> torch.Tensor:
    """The numbers that codes of a scale a row stand for, to be held as floats."""
    given = program.fixed(codes, "a weight", node)
    rows = (-1, *(1,) * (given.dim() - 1))
    steps, origin = (
        None if part is None else program.fixed(part, "a scale", node).reshape(rows)
        for part in (scale, zero)
    )
    assert steps is not None
    program.note_floats(codes)
    return dequantize(given, steps, origin)


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


LOWERINGS = {
    "linear": linear,
    "ort.linear_codes": linear_codes,
}
