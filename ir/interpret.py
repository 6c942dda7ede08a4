"""Run a graph in PyTorch, node by node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch.utils import _pytree as pytree

from . import ops
from .errors import InputError
from .graph import Graph, Node, ancestors, substitute
from .types import DTYPE_NAMES, TensorType, evaluate, is_real, show

Tap: TypeAlias = "Callable[[Node, Any], Any]"
Read: TypeAlias = "Callable[[Node, Node, Any], Any]"


def execute(
    graph: Graph,
    inputs: Sequence[Any],
    *,
    tap: Tap | None = None,
    read: Read | None = None,
    params: Mapping[str, torch.Tensor] | None = None,
) -> tuple[Any, ...]:
    """The flat outputs for flat inputs; each value is freed after its last use, and parameters are
    read at their first.

    Args:
        tap: Called with every node and its value; what it returns, unless ``None``, goes on in the
            value's place (so a tap can watch, or fake-quantize).
        read: Called with a reader, a node that it reads, and the value; what it returns is read by
            this reader alone.
        params: Tensors in place of the store's, by name (to differentiate by them).
    """
    store: Mapping[str, torch.Tensor] = graph.store if params is None else {**graph.store, **params}
    values = _Reading(by_input(graph, inputs))
    values.store = store
    if tap is not None:
        for node in graph.inputs:
            changed = tap(node, values[node])
            values[node] = values[node] if changed is None else changed
    compute(graph.nodes, values, keep=graph.output.inputs, tap=tap, read=read)
    return tuple(substitute(arg, values.__getitem__) for arg in graph.outputs)


def by_input(graph: Graph, values: Sequence[Any]) -> dict[Node, Any]:
    """Flat inputs by their nodes, in the graph's own precision."""
    pairs = zip(graph.inputs, values, strict=True)
    return {node: converted(node, value) for node, value in pairs}


def converted(node: Node, value: Any) -> Any:
    """What an input is given, in the precision in which the graph takes it: calibration data are as
    the model took them, also for a copy in float32."""
    both = isinstance(value, torch.Tensor) and value.is_floating_point() and is_real(node.type)
    return value.to(node.dtype) if both else value


class _Reading(dict[Node, Any]):
    """Values by node, with parameters read when they are asked for."""

    store: Mapping[str, torch.Tensor]

    def __missing__(self, node: Node) -> Any:
        if node.op != "param":
            raise KeyError(node)
        self[node] = self.store[node.name]
        return self[node]


def compute(
    nodes: Sequence[Node],
    values: dict[Node, Any],
    *,
    keep: Iterable[Node] = (),
    tap: Tap | None = None,
    read: Read | None = None,
) -> None:
    """Run some nodes in order.

    Args:
        values: Of all that they read from elsewhere; gets theirs, and loses each after its last
            use.
        keep: What is not lost.
        tap, read: As ``execute`` has them.
    """
    kept = set(keep)
    last: dict[Node, Node] = {}
    for node in nodes:
        for used in node.inputs:
            last[used] = node

    def seen(reader: Node, used: Node) -> Any:
        return values[used] if read is None else read(reader, used, values[used])

    for node in nodes:
        args = substitute(node.args, partial(seen, node))
        attrs = {key: substitute(value, partial(seen, node)) for key, value in node.attrs.items()}
        try:
            value = ops.call(node.op, args, attrs)
        except Exception as error:
            error.add_note(f"while running  {node.at}")
            raise
        changed = tap(node, value) if tap is not None else None
        values[node] = value if changed is None else changed
        for used in {*node.inputs, node}:
            if last.get(used, node) is node and used not in kept:
                values.pop(used, None)


def values_of(graph: Graph, inputs: Sequence[Any], nodes: Sequence[Node]) -> list[Any]:
    """Some values of a run; what they do not need is not computed."""
    needed = {*nodes, *ancestors(nodes)}
    values = _Reading(by_input(graph, inputs))
    values.store = graph.store
    with torch.no_grad():
        compute([node for node in graph.nodes if node in needed], values, keep=nodes)
    return [values[node] for node in nodes]


def call(graph: Graph, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Run the graph by the model's own calling convention."""
    with torch.no_grad():
        flat = execute(graph, flatten(graph, args, kwargs))
    return unflatten(graph, flat)


def flatten(graph: Graph, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """The flat inputs of a call, checked against the graph's; raises ``InputError``."""
    spec = graph.in_spec
    if spec is not None:
        names = spec.children()[1].context or []
        if missing := [n for n in names if n not in kwargs]:
            raise InputError(
                f"the model was traced with the keyword {missing[0]!r}, and it is not given"
            )
        if extra := [n for n in kwargs if n not in names]:
            raise InputError(f"the model was traced without the keyword {extra[0]!r}")
        kwargs = {name: kwargs[name] for name in names}
        flat, found = pytree.tree_flatten((tuple(args), kwargs))
        if found != spec:
            raise InputError(
                f"expected {_signature(graph)}, got {len(flat)} values in another structure",
                do="call it as the model was called when it was traced",
            )
    else:
        flat = list(args)
    if len(flat) != len(graph.inputs):
        raise InputError(f"expected {_signature(graph)}, got {len(flat)} values")
    check_inputs(graph, flat)
    return flat


def check_inputs(graph: Graph, flat: Sequence[Any]) -> dict[str, int]:
    """Check flat inputs against the graph's types; returns what each symbol stands for."""
    known: dict[str, int] = {}
    for node, value in zip(graph.inputs, flat, strict=True):
        if not isinstance(node.type, TensorType):
            continue
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"{node.name}: expected a tensor {node.type}, got a {type(value).__name__}"
            )
        found = f"{DTYPE_NAMES.get(value.dtype, value.dtype)}{list(value.shape)}"
        if value.dtype != node.type.dtype or value.dim() != node.type.rank:
            raise InputError(f"{node.name}: expected {show(node.type)}, got {found}")
        for size, actual in zip(node.type.shape, value.shape, strict=True):
            _match(node, size, int(actual), known, graph, found)
    return known


def _match(
    node: Node, size: Any, actual: int, known: dict[str, int], graph: Graph, found: str
) -> None:
    if isinstance(size, str) and size.isidentifier():
        low, high = graph.symbols.get(size, (0, None))
        if actual < low or (high is not None and actual > high):
            top = "" if high is None else f" and at most {high}"
            raise InputError(f"{node.name}: {size} must be at least {low}{top}, got {found}")
        expected = known.setdefault(size, actual)
    else:
        try:
            expected = evaluate(size, known)
        except NameError:  # a symbol that a later input tells
            return
    if expected != actual:
        hint = "" if isinstance(size, str) else "; trace with dynamic_shapes to let a size vary"
        raise InputError(
            f"{node.name}: expected {show(node.type)}, got {found}", do=hint.lstrip("; ")
        )


def unflatten(graph: Graph, flat: Sequence[Any]) -> Any:
    """What the model returned, from flat outputs."""
    if graph.out_spec is not None:
        return pytree.tree_unflatten(list(flat), graph.out_spec)
    return flat[0] if len(flat) == 1 else tuple(flat)


def _signature(graph: Graph) -> str:
    return "inputs (" + ", ".join(f"{n.name}: {show(n.type)}" for n in graph.inputs) + ")"


def stored_value(graph: Graph, node: Node) -> torch.Tensor:
    """The tensor of a parameter, or what its codes stand for."""
    if node.op == "param":
        return graph.value(node)
    values = [None if arg is None else graph.value(arg) for arg in node.args]
    return ops.call(node.op, tuple(values), node.attrs)
