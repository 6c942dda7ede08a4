"""From a graph to its C: constants folded, one lowering a node, memory planned, text written."""

from __future__ import annotations

import torch

from ...ir import Graph, Node, TargetError, TensorType
from ...ir.interpret import compute
from . import forms, regions
from .lower import LOWERINGS
from .memory import plan
from .program import Program, Value
from .render import Source, render

_DO = {
    "dynamic_quantize": "choose static scales, such as passes='w8a8'",
    "decode": "choose weights in eight bits, such as passes='w8a8'",
    "fake_quantize": "choose codes of eight bits, such as passes='w8a8'",
}
_ELSE = "write it with other PyTorch functions, or choose target='onnxruntime'"


def generate(graph: Graph) -> Source:
    """The C of a graph, which it takes over and changes.

    Raises:
        TargetError: A size is a symbol, or there is no kernel for an op.
    """
    forms.fuse(graph)
    regions.fuse(graph)
    program = Program(graph)
    inputs = [_input(program, node) for node in graph.inputs]
    program.values.update(zip(graph.inputs, inputs, strict=True))
    for node in list(graph.nodes):
        if not _folded(program, node):
            _lower(program, node)
    outputs = _outputs(program)
    arena = plan(program.steps, program.alignment)
    return render(program, inputs, outputs, arena)


def _input(program: Program, node: Node) -> Value:
    if not isinstance(node.type, TensorType):
        raise TargetError(f"target 'c' takes tensors, and {node.name} is a number", where=node.at)
    return program.given(node)


def _folded(program: Program, node: Node) -> bool:
    """Compute a node that reads parameters alone now; whether it is one."""
    if not node.inputs or any(arg.op != "param" for arg in node.inputs) or node.op in _DO:
        return False
    if not isinstance(node.type, TensorType):
        return False
    values = {arg: program.graph.value(arg) for arg in node.inputs}
    with torch.no_grad():
        compute([node], values, keep=[node])
    if node.op == "dequantize":
        program.note_floats(node.args[0])
    new = program.graph.param(node.name, values[node])
    program.graph.supersede(node, new)
    return True


def _lower(program: Program, node: Node) -> None:
    lowering = LOWERINGS.get(node.op)
    if lowering is None:
        raise TargetError(
            f"target 'c' has no kernel for {node.op}",
            where=node.at,
            do=_DO.get(node.op, _ELSE),
        )
    value = lowering(program, node)
    if value is not None:
        program.values[node] = value


def _outputs(program: Program) -> list[Value]:
    """What the caller gets, each in an array of his, in PyTorch's order."""
    found: list[Value] = []
    for place, arg in enumerate(program.graph.outputs):
        if not isinstance(arg, Node):
            continue  # who has the graph knows it
        value = program.plain(program.operand(arg))
        hint = arg.name if arg.op not in ("input", "param") else f"output_{place}"
        if value.buffer.array or not program.steps:
            new = program.new(hint, value.kind, value.shape)
            value = program.call("memcpy", new, value, new.buffer.bytes, into=new)
        value.buffer.array = value.name
        found.append(value)
    return found
