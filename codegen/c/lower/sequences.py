"""Recurrent layers, tables of rows, and products of what is computed."""

from __future__ import annotations

import math

import torch

from ....ir import Node
from ..program import BYTES, Program, Value
from .floats import decoded


def recurrent(program: Program, node: Node) -> Value:
    """``lstm_f32``, ``gru_f32`` and ``rnn_f32``: all steps of one layer in one direction."""
    gates, weight, *rest = node.args
    bias, hidden, cell = (*rest, None, None, None)[:3]
    matrix = program.fixed(weight, "a weight", node)
    times, batch, _ = program.shape(gates)
    blocks, size = matrix.shape
    x = program.plain(program.floats(gates, node))
    w = program.constant(weight.name, matrix)
    given = None if bias is None else program.fixed(bias, "a bias", node)
    b = program.per_channel(node, "bias", given, blocks, 0.0)
    h = "NULL" if hidden is None else program.plain(program.floats(hidden, node))
    kept = program.new("kept", "f32", (blocks,))
    sizes = (times, batch, size, int(bool(node.attrs.get("reverse"))))
    y = program.new(node.name, "f32", (times, batch, size))
    if not node.op.startswith("lstm"):
        kind = node.op.split("_")[0]
        relu = (int(node.op == "rnn_relu_states"),) if kind == "rnn" else ()
        return program.call(
            f"{kind}_f32", x, w, b, h, y, kept, *sizes, *relu, into=y, scratch=(kept,)
        )
    c = program.new(f"{node.name}_cell", "f32", (batch, size))
    if cell is None:
        program.call("fill_f32", c, c.count, 0.0, into=c)
    else:
        program.call("memcpy", c, program.plain(program.floats(cell, node)), c.buffer.bytes, into=c)
    program.call("lstm_f32", x, w, b, h, c, y, kept, *sizes, into=y, scratch=(c, kept))
    return c if node.op == "lstm_last_cell" else y


def embedding(program: Program, node: Node) -> Value:
    """``rows_s64``: rows of a table, be it of codes."""
    table, places = node.args
    return _rows(program, node, program.operand(table), places)


def embedding_codes(program: Program, node: Node) -> Value:
    """The same of a table in codes of a scale a row, which is held as floats."""
    weight, scale, zero, places = node.args
    table = program.constant(weight.name, decoded(program, node, weight, scale, zero))
    return _rows(program, node, table, places)


def _rows(program: Program, node: Node, table: Value, places: Node) -> Value:
    x = program.plain(program.operand(places))
    if x.kind not in ("s64", "s32"):
        raise program.refuses(f"places in {places.type}", node)
    y = program.result(node)
    rows, size = table.shape[0], math.prod(table.shape[1:])
    numbers = (x.count, rows, size * BYTES[table.kind])
    return program.call(f"rows_{x.kind}", x, table, y, *numbers, into=y)


def matmul(program: Program, node: Node) -> Value:
    """``matmul_f32``, of stacks of matrices."""
    left, right = (program.plain(program.floats(arg, node)) for arg in node.args)
    if len(left.shape) < 2 or len(right.shape) < 2:
        raise program.refuses("a vector", node)
    stack = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    left, right = (
        part if part.shape[:-2] == stack else program.repeated(part, (*stack, *part.shape[-2:]))
        for part in (left, right)
    )
    y = program.result(node)
    sizes = (math.prod(stack), *left.shape[-2:], right.shape[-1])
    return program.call("matmul_f32", left, right, y, *sizes, into=y)


LOWERINGS = {
    **{f"{kind}_states": recurrent for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    "lstm_last_cell": recurrent,
    "embedding": embedding,
    "ort.embedding_codes": embedding_codes,
    "matmul": matmul,
    "bmm": matmul,
}
