"""An op without a lowering of ours, through ``torch.onnx.export``: slow, but it knows most of ATen.

The node becomes a module of its own, whose inputs are the tensors that it reads; the ONNX nodes
that the exporter gives are put in its place.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Generator
from typing import Any

import onnx
import torch
from onnx import inliner

from ...ir import Graph, Node, TargetError, TensorType
from ...ir.graph import substitute
from ...ir.types import evaluate, symbols
from .builder import Builder, Declined, Value


def export(builder: Builder, node: Node, reason: str) -> Value:
    """The node's value, by the nodes that PyTorch's exporter makes of it."""
    graph, operands = alone(builder.graph, node)
    names = [_read(builder, node, operand) for operand in operands]
    try:
        model = builder.exported.get(str(graph)) or _export(graph, builder.dialect.opset)
    except Exception as error:
        form = f" {reason}" if reason else ""
        missing = importlib.util.find_spec("onnxscript") is None
        raise TargetError(
            f"{node.op}{form} has no ONNX form: neither ours nor torch.onnx's ({_root(error)})",
            where=node.at,
            do="pip install onnxscript, which torch.onnx needs"
            if missing
            else "write it with other PyTorch functions, or compile for target='torch'",
        ) from error
    builder.exported[str(graph)] = model
    made = _inline(builder, model, names)
    return made if isinstance(node.type, tuple) else made[0]


def _read(builder: Builder, node: Node, operand: Node) -> str:
    """An operand's name; raises ``TargetError`` for one that no ONNX tensor holds."""
    try:
        return builder.tensor(operand)
    except Declined as reason:
        raise TargetError(
            f"{node.op} reads {operand.name}: {reason}",
            where=node.at,
            do="write it with real numbers, or compile for target='torch'",
        ) from None


def _root(error: BaseException) -> str:
    """The first line of what lies behind an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def alone(graph: Graph, node: Node) -> tuple[Graph, list[Node]]:
    """The node and the symbolic numbers it reads as a graph, and the tensors that it takes.

    Names are by position, so that nodes which do the same on the same types have the same text.
    """
    new = Graph()
    new.symbols = dict(graph.symbols)
    made: dict[Node, Node] = {}
    operands: list[Node] = []

    def copy(old: Node) -> Node:
        if old not in made:
            if isinstance(old.type, TensorType) and old is not node:
                operands.append(old)
                made[old] = new.input("x", old.type)
            else:
                args = substitute(old.args, copy)
                attrs = {key: substitute(value, copy) for key, value in old.attrs.items()}
                made[old] = new.add(old.op, *args, name="y", type=old.type, **attrs)
        return made[old]

    result = copy(node)
    if isinstance(node.type, tuple):
        parts = [new.add("getitem", result, i, type=part) for i, part in enumerate(node.type)]
        new.returns(*parts)
    else:
        new.returns(result)
    return new, operands


def _export(graph: Graph, opset: int) -> onnx.ModelProto:
    names = dict.fromkeys(name for node in graph.inputs for name in symbols(node.type))
    # Distinct sizes that no op takes for 1, within each symbol's range.
    point = {
        name: max(graph.symbols.get(name, (0, None))[0], 3 + i) for i, name in enumerate(names)
    }
    examples: list[torch.Tensor] = []
    shapes: list[dict[int, Any]] = []
    for node in graph.inputs:
        sizes = [evaluate(size, point) for size in node.shape]
        examples.append(torch.zeros(sizes, dtype=node.dtype))
        free = {axis: size for axis, size in enumerate(node.shape) if isinstance(size, str)}
        shapes.append(
            {
                a: torch.export.Dim.DYNAMIC if s.isidentifier() else torch.export.Dim.AUTO
                for a, s in free.items()
            }
        )
    with _quiet():
        program = torch.onnx.export(
            graph.to_module(),
            tuple(examples),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=(tuple(shapes),),  # of the one *args
            verbose=False,
        )
    assert program is not None
    return inliner.inline_local_functions(program.model_proto)


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Without the exporter's progress and its warnings, which are not about the user's model."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _inline(builder: Builder, model: onnx.ModelProto, operands: list[str]) -> tuple[str, ...]:
    """Put the model's nodes into ours under new names; gives the names of its outputs."""
    known = {info.name: name for info, name in zip(model.graph.input, operands, strict=True)} | {
        "": ""
    }

    def name_of(name: str) -> str:
        if name not in known:
            known[name] = builder.fresh()
        return known[name]

    for tensor in model.graph.initializer:
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        copy.name = name_of(tensor.name)
        builder.initializers[copy.name] = copy
    for node in model.graph.node:
        builder.nodes.append(_renamed(node, name_of))
    for domain in model.opset_import:
        builder.domains.setdefault(domain.domain, domain.version)
    return tuple(name_of(info.name) for info in model.graph.output)


def _renamed(node: onnx.NodeProto, name_of: Callable[[str], str]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = map(name_of, node.input)
    copy.output[:] = map(name_of, node.output)
    copy.name = f"{copy.output[0]}.{node.op_type}"
    del copy.metadata_props[:]  # stack traces of the exporter, which differ from run to run
    copy.doc_string = ""
    for attribute in copy.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            body = attribute.g
            renamed = [_renamed(inner, name_of) for inner in body.node]
            del body.node[:]
            body.node.extend(renamed)
            for value in (*body.input, *body.output, *body.initializer):
                value.name = name_of(value.name)
    return copy
