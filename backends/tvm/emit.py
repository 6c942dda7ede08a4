"""Our graph as a Relax module: one function, of the graph's inputs and then of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...ir import Graph, Node, TargetError, TensorType
from ...ir.types import Type, show
from ..lowering import Declined, lowered
from .builder import Builder, Value
from .lower import LOWERINGS

MAIN = "main"
_WANTED = {"dequantize", "decode"}  # made where a reader wants it: products read the codes


@dataclass(frozen=True)
class Program:
    """A module and what its last arguments are.

    Args:
        module: An ``IRModule`` of Relax.
        weights: The function's arguments after the inputs, in the order of their names.
    """

    module: Any
    weights: dict[str, torch.Tensor]


def emit(graph: Graph, *, dots: bool = False) -> Program:
    """The graph as a module, whose function gives a tuple of the outputs that are values.

    Args:
        dots: Whether the processor adds four products of codes in one step.

    Raises:
        TargetError: An op, or a form of one, has no lowering.
    """
    if unknown := [node for node in graph.nodes if node.type != () and node.op not in LOWERINGS]:
        raise _refused(unknown[0], "")
    b = Builder(graph, lower, dots=dots)
    inputs = [_input(b, node) for node in fed(graph)]
    with b.block.function(MAIN):
        with b.block.dataflow():
            for node in graph.nodes:
                if node.op not in _WANTED:
                    b.values[node] = lower(b, node)
            outputs = [b.tensor(arg) for arg in graph.outputs if isinstance(arg, Node)]
            result = b.block.emit_output(b.relax.Tuple(outputs))
        names = sorted(b.weights)
        b.block.emit_func_output(result, [*inputs, *map(b.variables.__getitem__, names)])
    return Program(b.block.get(), {name: b.weights[name] for name in names})


def lower(b: Builder, node: Node) -> Value:
    """What one node of ours is in Relax, of the type that we know."""
    b.begin()
    if node.type == ():  # an assertion: it has no value
        return ()
    try:
        return _settled(b, lowered(LOWERINGS, b, node), node.type)
    except Declined as reason:
        raise _refused(node, str(reason)) from None


def _refused(node: Node, form: str) -> TargetError:
    return TargetError(
        f"target 'tvm' has no lowering for {node.op}{' ' if form else ''}{form}",
        where=node.at,
        do="write it with other PyTorch functions, or compile for target='onnxruntime' or "
        "target='torch'",
    )


def _settled(b: Builder, value: Value, type_: Type) -> Value:
    """A value with the sizes of our type, where Relax has found others or none for them."""
    if isinstance(type_, tuple):
        return tuple(_settled(b, v, t) for v, t in zip(value, type_, strict=True))
    if not isinstance(type_, TensorType) or value is None:
        return value
    wanted = b.type(type_)
    found = value.ty.shape
    if found is not None and hasattr(found, "values"):
        pairs = list(zip(found.values, wanted.shape.values, strict=True))
        if all(_same(b, one, other) for one, other in pairs):
            return value
    return b.block.match_cast(value, wanted)


def _same(b: Builder, one: Any, other: Any) -> bool:
    return b.analyzer.can_prove_equal(one, other)


def fed(graph: Graph) -> list[Node]:
    """The inputs that the function takes: on a number that nobody reads nothing depends."""
    return [node for node in graph.inputs if node.users or isinstance(node.type, TensorType)]


def _input(b: Builder, node: Node) -> Any:
    """An input as an argument of the function."""
    if not isinstance(node.type, TensorType):
        raise TargetError(
            f"target 'tvm' takes tensors only, and {node.name} is {show(node.type)}",
            where=node.at,
            do="give the model a tensor, or compile for target='onnxruntime'",
        )
    try:
        b.values[node] = b.relax.Var(node.name, b.type(node.type))
    except Declined as reason:
        raise TargetError(f"{node.name}: {reason}", where=node.at) from None
    return b.values[node]
