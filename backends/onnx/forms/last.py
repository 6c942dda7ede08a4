"""Scores of the last tokens alone, where a caller wants no others.

    y = f(x)  ->  y = f(x[:, first:])      first: one more input, 0 for all

``f`` works on each token by itself and holds the table of a language model, which is the largest
product of a small one: of a prompt, the last token's scores alone say how it goes on. For graphs
whose caches stay where they are, and whose only other output is ``y``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ....ir import Graph, Node, ScalarType, TensorType
from ....ir.laws import Elementwise
from ....ir.ops import has_law
from ....ir.types import Type

_NORMS = {"layer_norm", "rms_norm"}
_PAIRS = {"add", "sub", "mul", "div"}


@dataclass(frozen=True)
class _Step:
    """What works on tokens one by one, and on what."""

    nodes: tuple[Node, ...]
    source: Node


def fuse(graph: Graph) -> None:
    layer = next((node for node in graph.nodes if node.op == "ort.cached_attention"), None)
    outputs = [arg for arg in graph.outputs if isinstance(arg, Node) and not _is_cache(arg)]
    if layer is None or len(outputs) != 1:
        return
    length = layer.args[0].shape[1]
    steps = list(_steps(graph, outputs[0], length))
    if length == 1 or not any(node.op == "linear" for step in steps for node in step.nodes):
        return
    source = steps[-1].source
    if source.op == "dequantize":  # it belongs to what multiplies the codes
        return
    first = graph.input("first", ScalarType("int"))
    fewer = _symbol(graph)
    cut = graph.add(
        "slice", source, dim=1, start=first, type=_retyped(source.type, length, fewer),
        where=source.where, before=graph.following(source),
    )  # fmt: skip
    for node in steps[-1].nodes:
        node.replace_input(source, cut)
    for node in (node for step in steps for node in step.nodes):
        node.type = _retyped(node.type, length, fewer)


def _is_cache(value: Node) -> bool:
    return value.op == "getitem" and value.args[0].op == "ort.cached_attention"


def _symbol(graph: Graph) -> str:
    """A size that no other has."""
    name = "scored"
    while name in graph.symbols:
        name += "_"
    graph.symbols[name] = (0, None)
    return name


def _steps(graph: Graph, output: Node, length: int | str) -> Iterator[_Step]:
    """From the output backwards, as far as each value has one reader."""
    value, reader = output, graph.output
    while list(value.users) == [reader]:
        step = _step(value, length)
        if step is None:
            return
        yield step
        value, reader = step.source, step.nodes[-1]


def _step(value: Node, length: int | str) -> _Step | None:
    match value:
        case _ if not _by_token(value, length):
            return None
        case Node("linear", (Node() as source, *_)):
            nodes = (value,)
        case Node(op, (Node() as source, *_)) if op in _NORMS:
            nodes = (value,) if len(value.attrs["normalized_shape"]) == 1 else ()
        case Node("dequantize", (Node("quantize", (Node() as source, *ranges)) as codes, *_)):
            whole = all(part.op == "param" for part in ranges if isinstance(part, Node))
            nodes = (value, codes) if whole and list(codes.users) == [value] else ()
        case Node("dequantize", (Node("getitem", (Node("dynamic_quantize") as made, 0)), *_)):
            parts, source = tuple(made.users), made.args[0]
            alone = all(list(part.users) == [value] for part in parts)
            nodes = (value, *parts, made) if alone and made.attrs.get("per_token", True) else ()
        case Node(op, (Node() as source,)) if _is_elementwise(op):
            nodes = (value,)
        case Node(op, (Node() as source, int() | float())) if op in _PAIRS:
            nodes = (value,)
        case _:
            return None
    return _Step(nodes, source) if nodes and _by_token(source, length) else None


def _by_token(value: Node, length: int | str) -> bool:
    """Whether a value is ``[batch, length, channels]``."""
    return isinstance(value.type, TensorType) and len(value.shape) == 3 and value.shape[1] == length


def _is_elementwise(op: str) -> bool:
    return op == "to" or has_law(op, Elementwise)


def _retyped(type_: Type, old: int | str, new: str) -> Type:
    if isinstance(type_, tuple):
        return tuple(_retyped(part, old, new) for part in type_)
    if not isinstance(type_, TensorType):
        return type_
    batch, _, *rest = type_.shape
    return TensorType(type_.dtype, (batch, new, *rest))
