"""Put layers that follow one another in another order.

    f2(f1(f0(x)))      becomes, in the order 0, 2, 1,      f1(f2(f0(x)))

Layers are those that can be left out (``layers``): what one gives is of the type that the next one
reads. Exact for the order that there is, or where neighbours do not depend on each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ....ir import Graph, InputError, Node
from ....ir.graph import ancestors
from ....ir.state import find_state
from ...base import Context, Promise, Remark, Stage, applied, missed
from ...options import check_known, check_several
from ...sites import Asked, SparingPass
from ..costs import Costs
from .layers import LAYER_KINDS, Layer, LayerKind, downstream, layers


@dataclass(frozen=True)
class Reorder(SparingPass):
    """Put layers in another order.

    Args:
        order: For each place in the longest chain of layers the number of that which comes there,
            from 0, each once.
        kinds: Of the layers (``layers``), such as ``("block",)``, or ``("attention",
            "feedforward")`` for the halves of blocks.
    """

    order: tuple[int, ...]
    kinds: tuple[LayerKind, ...] = ("block",)
    what: ClassVar[str] = "what enters the first layer of a chain"
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def __post_init__(self) -> None:
        check_several(self.kinds, "kinds", "block")
        check_known(self.kinds, LAYER_KINDS, "kind of layers")
        check_several(self.order, "order", 0)
        if {*self.order} != {*range(len(self.order))} or len(self.order) < 2:
            raise InputError(
                f"order={self.order} does not name each of two layers or more once",
                do="the numbers from 0 in any order; DropLayers leaves layers out",
            )

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        chains = [
            chain
            for chain in _chains(layers(graph, self.kinds, Costs(graph, [], context.inputs)))
            if asked(chain[0].by)
        ]
        if not chains:
            text = f"it has no {' or '.join(self.kinds)} that could follow another"
            return [missed(graph.output, text)]
        chain = max(chains, key=len)
        if len(chain) != len(self.order):
            raise InputError(
                f"{len(chain)} layers follow one another, and order names {len(self.order)}",
                where=chain[0].value.at,
                do=f"name each from 0 to {len(chain) - 1} once",
            )
        moved = (layer for place, layer in enumerate(chain) if self.order[place] != place)
        if sentence := next(filter(None, (layer.protected(asked) for layer in moved)), ""):
            return [missed(chain[0].by, f"{sentence}, and the order moves it")]
        inside = [_inside(graph, layer) for layer in chain]
        if reason := _read_elsewhere(graph, chain, inside):
            return [missed(chain[0].by, reason)]
        _put(graph, chain, inside, self.order)
        names = ", ".join(chain[index].name for index in self.order)
        return [applied(chain[0].by, f"read by {names}, one after the other")]


def _chains(found: Sequence[Layer]) -> list[list[Layer]]:
    """Layers of which each but the first reads what the one before gives."""
    chains: list[list[Layer]] = []
    for layer in found:
        before = next((chain for chain in chains if chain[-1].value is layer.by), None)
        if before is None:
            chains.append([layer])
        else:
            before.append(layer)
    return chains


def _inside(graph: Graph, layer: Layer) -> list[Node]:
    """What computes the value of a layer from what enters it."""
    needed = {layer.value, *ancestors([layer.value])}
    return [node for node in downstream(graph, layer.by) if node in needed]


def _read_elsewhere(graph: Graph, chain: Sequence[Layer], inside: Sequence[Sequence[Node]]) -> str:
    """Who else reads a value between two layers, or within one; in words, or nothing."""
    kept = {state.left for state in find_state(graph)}
    every = [node for nodes in inside for node in nodes if node is not chain[-1].value]
    own = {*every, chain[-1].value, *kept}
    for node in every:
        for user in node.users:
            if user not in own and not (user.op == "output" and node in kept):
                return f"{user.name} reads {node.name} too"
    return ""


def _put(
    graph: Graph,
    chain: Sequence[Layer],
    inside: Sequence[Sequence[Node]],
    order: Sequence[int],
) -> None:
    last, every = chain[-1].value, {node for nodes in inside for node in nodes}
    behind = [user for user in last.users if user not in every]
    readers = [
        [node for node in nodes if layer.by in node.inputs]
        for layer, nodes in zip(chain, inside, strict=True)
    ]
    current = chain[0].by
    for index in order:
        for node in readers[index]:
            node.replace_input(chain[index].by, current)
        current = chain[index].value
    for user in behind:
        user.replace_input(last, current)
    graph.sort()
