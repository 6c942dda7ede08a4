"""Layers that can be left out: values for which another one can stand.

    attention, feedforward   a branch of an addition: ``x + f(x)`` becomes ``x``; with an attention
                             in it, or without
    block                    one of the graph's repeated blocks: its entry stands for its exit
    operator                 a contraction or a norm that gives what it is given in the same form

A branch is what nobody needs any more once the addition does without it; there must be weights in
it, or nothing would be gained.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from ....ir import Graph, Node
from ....ir.blocks import repeated
from ....ir.gauge import weighted
from ....ir.graph import ancestors
from ....ir.laws import Add, Contract, Normalize, ScaledDotProduct, Softmax
from ....ir.ops import has_law
from ....ir.state import answers, find_state, let_go
from ...base import Remark, missed
from ...sites import Asked
from ..costs import Costs

LayerKind: TypeAlias = Literal["attention", "feedforward", "block", "operator"]
LAYER_KINDS: tuple[LayerKind, ...] = get_args(LayerKind)


@dataclass(frozen=True, eq=False)
class Layer:
    """What can be left out.

    Attributes:
        value: What is given without it is that of:
        by: another value of its type.
        name: Of what goes.
        nodes: What nobody needs any more then.
        parameters, macs: How many go with it.
    """

    value: Node
    by: Node
    kind: LayerKind
    name: str
    nodes: frozenset[Node]
    parameters: int
    macs: int

    def protected(self, asked: Asked) -> str:
        """The sentence that says that something of it is to stay; empty where nothing is."""
        return asked.protected_in([self.value, *self.nodes])


def layers(graph: Graph, kinds: Collection[LayerKind], costs: Costs) -> list[Layer]:
    """The layers of some kinds, in order; some may lie in others, or give the same value."""
    found: list[Layer] = []
    for value, by, name, kind in _candidates(graph):
        gone = _unneeded(graph, value, by)
        if kind is None:
            if not any(map(weighted, gone)):
                continue
            kind = "attention" if _attends(gone) else "feedforward"
        if kind in kinds:
            params = {used for node in gone for used in node.inputs if used.op == "param"}
            mine = [param for param in params if param.users.keys() <= gone]
            size = sum(math.prod(int(n) for n in param.shape) for param in mine)
            found.append(Layer(value, by, kind, name, frozenset(gone), size, costs.of(gone)))
    return found


def asked_for(every: Iterable[Layer], asked: Asked) -> tuple[list[Layer], list[Remark]]:
    """The layers that a caller wants something done with, and why others stay as they are."""
    found: list[Layer] = []
    remarks: list[Remark] = []
    for layer in every:
        if not asked(layer.value, *(n for n in layer.nodes if n.name == layer.name)):
            continue
        if sentence := layer.protected(asked):
            remarks.append(missed(layer.value, sentence))
        else:
            found.append(layer)
    return found, remarks


def without(graph: Graph, gone: Iterable[Layer]) -> Mapping[Node, Node]:
    """Leave layers out, in place, with the state that they alone read; gives the value that stands
    for each that went."""
    state = find_state(graph)
    order = {node: index for index, node in enumerate(graph.nodes)}
    stands: dict[Node, Node] = {}
    for layer in sorted(gone, key=lambda layer: order[layer.value]):
        by = stands.get(layer.by, layer.by)
        if layer.value not in stands:
            graph.replace(layer.value, by)
            stands[layer.value] = by
    graph.prune()
    let_go(graph, state)
    return stands


def apart(some: Iterable[Layer]) -> list[list[Layer]]:
    """Layers in groups: those that have nodes in common, or give the same value, are in one."""
    found: list[list[Layer]] = []
    for layer in some:
        others, met = list[list[Layer]](), [layer]
        for group in found:
            if any(layer.value is o.value or layer.nodes & o.nodes for o in group):
                met = [*group, *met]
            else:
                others.append(group)
        found = [*others, met]
    return found


def of_copy(copy: Graph, some: Iterable[Layer]) -> list[Layer]:
    """The same layers of a copy of their graph."""
    return [
        Layer(
            copy[layer.value.name],
            copy[layer.by.name],
            layer.kind,
            layer.name,
            frozenset(copy[node.name] for node in layer.nodes),
            layer.parameters,
            layer.macs,
        )
        for layer in some
    ]


def _candidates(graph: Graph) -> Iterator[tuple[Node, Node, str, LayerKind | None]]:
    """A value, what can stand for it, the name of what goes, and its kind; none of a branch."""
    for block in repeated(graph):
        if block.entry is not None and block.entry.type == block.exit.type:
            yield block.exit, block.entry, block.exit.name, "block"
    for node in graph.nodes:
        if has_law(node.op, Add) and len(node.args) == 2 and node.attrs.get("alpha", 1) == 1:
            terms = [arg for arg in node.args if isinstance(arg, Node)]
            if len(terms) == 2 and terms[0] is not terms[1] and node.op == "add":
                for stays, goes in (terms, terms[::-1]):
                    if stays.type == node.type and not _is_stream(goes, stays):
                        yield node, stays, goes.name, None
        elif (weighted(node) or has_law(node.op, Normalize)) and node.args[0].type == node.type:
            yield node, node.args[0], node.name, "operator"


def _is_stream(goes: Node, stays: Node) -> bool:
    """Whether one operand of an addition is a sum with what the other is computed from: what flows
    past all branches, and is none."""
    terms, sums = list[Node](), [goes]
    while sums:
        term = sums.pop()
        terms.append(term)
        if has_law(term.op, Add):
            sums.extend(arg for arg in term.args if isinstance(arg, Node))
    seen = {stays, *ancestors([stays])}
    return stays.op == "param" or any(term in seen for term in terms if term.op != "param")


def _unneeded(graph: Graph, value: Node, by: Node) -> set[Node]:
    """What nobody needs any more once ``by`` stands for ``value``."""
    needed: set[Node] = set()
    stack = answers(graph)  # state goes with those who read it
    while stack:
        node = stack.pop()
        node = by if node is value else node
        if node not in needed:
            needed.add(node)
            stack.extend(node.inputs)
    return {node for node in graph.nodes if node not in needed and node is not value} | (
        {value} if weighted(value) or has_law(value.op, Normalize) else set()
    )


def _attends(nodes: Collection[Node]) -> bool:
    """Whether there is an attention among nodes: as one op, or as a softmax of products of what is
    computed with what is computed."""
    if any(has_law(node.op, ScaledDotProduct) for node in nodes):
        return True
    chosen = [node for node in nodes if has_law(node.op, Softmax)]
    read = ancestors(chosen).intersection(nodes)
    return any(has_law(node.op, Contract) and not weighted(node) for node in read)


def downstream(graph: Graph, value: Node) -> Sequence[Node]:
    """All that is computed from a value, in order."""
    found, order = {value}, list[Node]()
    for node in graph.nodes:
        if any(used in found for used in node.inputs):
            found.add(node)
            order.append(node)
    return order
