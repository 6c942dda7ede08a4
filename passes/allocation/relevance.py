"""Relevance of values to the outputs, passed back op by op (LRP; A78).

What an output is, is split over what it was made of:

    R_i = x_i sum_o (dy_o/dx_i) R_o / (y_o + eps sign(y_o))        sum_i R_i = sum_o R_o

for ops that are linear in what they read: contractions, sums, means (the epsilon rule, which is
gradient times input of each op). A function of single numbers, a norm and a softmax hand on what
they get; movement takes it where the numbers came from. Of a product both factors get half;
attention counts as linear in the values, as if its weights were constants. A bias keeps its share,
a table what arrives there. What eps takes is lost, and what was chosen by its size (topk); steps of
recurrent layers and means of batch norms keep the sum only nearly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch

from ...ir import Graph, Node, ops
from ...ir.graph import substitute
from ...ir.interpret import execute
from ...ir.laws import (
    Contract,
    Elementwise,
    Gather,
    Law,
    Lookup,
    Movement,
    Mul,
    Normalize,
    Pad,
    Parts,
    ScaledDotProduct,
    Softmax,
)
from ..options import AMOUNT, COUNT, check_known, check_numbers
from .candidates import Candidates
from .score import Damages, Score, squared_errors

Relevance = Any  # a tensor like the value, or a tuple of these
Of: TypeAlias = Literal["top", "all"]

_HANDED_ON = (Elementwise, Normalize, Softmax)
_MOVED = (Movement, Parts, Pad, Lookup, Gather)


@dataclass(frozen=True)
class LayerRelevance(Score):
    """Damage as the relative error of a unit's weights times the relevance that its results have,
    as a part of that of all units.

    Args:
        of: Of which relevance: of the greatest number along the last axis of each output (the class
            that a classifier chooses), or of all numbers, as their squares.
        batches: At most so many of the calibration batches.
        epsilon: Of the typical number of a value, what keeps small ones from being divided by.
    """

    of: Of = "top"
    batches: int = 2
    epsilon: float = 1e-2

    def __post_init__(self) -> None:
        check_known([self.of], get_args(Of), "relevance of")
        check_numbers(self, batches=COUNT, epsilon=AMOUNT)

    def damages(self, candidates: Candidates) -> Damages:
        shares = self.shares(candidates)
        powers = [
            sum(float(candidates.graph.value(w).double().square().sum()) for w in unit.weights)
            for unit in candidates.units
        ]
        relative = squared_errors(candidates) / torch.tensor(powers).double()[:, None]
        return Damages(shares[:, None] * relative)

    def shares(self, candidates: Candidates) -> torch.Tensor:
        """Of each unit, the sum of the magnitudes of its results' relevance; 1 for all together."""
        total = torch.zeros(len(candidates.units), dtype=torch.float64)
        for batch in candidates.batches(self.name, self.batches):
            found = relevance(candidates.graph, batch, _start(self.of), epsilon=self.epsilon)
            for row, unit in enumerate(candidates.units):
                total[row] += sum(
                    float(found[reader].double().abs().sum())
                    for reader in unit.readers
                    if reader in found
                )
        return total / total.sum().clamp(min=1e-30)


def relevance(
    graph: Graph,
    inputs: Sequence[Any],
    start: Callable[[torch.Tensor], torch.Tensor],
    *,
    epsilon: float = 1e-6,
) -> dict[Node, Relevance]:
    """The relevance of each value that the outputs depend on, inputs and biases among them.

    Args:
        start: Gets an output, gives the relevance of its numbers.
        epsilon: As a part of the root mean square of each value.
    """
    values: dict[Node, Any] = {}
    with torch.no_grad():
        execute(graph, inputs, tap=values.__setitem__)
    values |= {node: graph.value(node) for node in graph.params.values()}
    found: dict[Node, Relevance] = {}
    for node in graph.output.inputs:
        if _is_float(values.get(node)):
            _add(found, node, start(values[node]), values)
    data = set(graph.inputs)
    for node in graph.nodes:
        if any(used in data for used in node.inputs):
            data.add(node)
    for node in reversed(graph.nodes):
        if node not in found or node.op == "embedding":
            continue
        for used, part in _split(node, found[node], values, data, epsilon).items():
            _add(found, used, part, values)
    return found


def _split(
    node: Node, own: Relevance, values: Mapping[Node, Any], data: set[Node], epsilon: float
) -> dict[Node, Relevance]:
    """What of a value's relevance each of those gets that it was made of."""
    law: Law = ops.get(node.op).law
    read = [used for used in dict.fromkeys(node.inputs) if _differs(values[used])]
    flows = [used for used in read if used in data]
    if not flows:
        return {}
    if isinstance(law, _HANDED_ON) and len(flows) == 1:
        if values[flows[0]].shape == values[node].shape:
            return {flows[0]: own}
    if isinstance(law, _MOVED):
        return _pulled(node, read, values, own)
    if isinstance(law, ScaledDotProduct):
        flows = [node.args[2]]
    factors = 1  # that hold data
    if isinstance(law, (Mul, Contract)):
        flows = [used for used in flows if node.op != "div" or used is node.args[0]]
        factors = 1 if node.op == "div" else sum(arg in data for arg in node.args[:2])
    shared = [used for used in read if used not in data and _adds(node, used)]
    value = values[node]
    size = epsilon * value.square().mean().sqrt()
    ratio = own / torch.where(value >= 0, value + size, value - size)
    ratio = torch.where(ratio.isfinite(), ratio, 0)
    pulled = _pulled(node, flows + shared, values, ratio)
    return {
        used: values[used] * part / (factors if used in flows else 1)
        for used, part in pulled.items()
    }


def _adds(node: Node, constant: Node) -> bool:
    """Whether a constant is added, and no factor."""
    return node.op in ("add", "sub", "rsub") or node.operand(2) is constant


def _pulled(
    node: Node, targets: Sequence[Node], values: Mapping[Node, Any], weights: Relevance
) -> dict[Node, Any]:
    """``J' w`` by each of the targets."""
    leaves = {used: _leaf(values[used]) for used in targets}
    with torch.enable_grad():

        def value(used: Node) -> Any:
            return leaves.get(used, values[used])

        args = substitute(node.args, value)
        attrs = {key: substitute(attr, value) for key, attr in node.attrs.items()}
        result = ops.call(node.op, args, attrs)
        results = _tensors(result)
        wanted = [part for leaf in leaves.values() for part in _tensors(leaf)]
        given: tuple[Any, ...] = torch.autograd.grad(
            results, wanted, _tensors(weights), allow_unused=True
        )
    found = iter(given)
    slopes: dict[Node, Any] = {}
    for used, leaf in leaves.items():
        parts = [
            torch.zeros_like(part) if slope is None else slope
            for part, slope in zip(_tensors(leaf), found, strict=False)
        ]
        slopes[used] = tuple(parts) if isinstance(leaf, tuple) else parts[0]
    return slopes


def _leaf(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(part.detach().requires_grad_() for part in value)
    return value.detach().requires_grad_()


def _tensors(value: Any) -> list[torch.Tensor]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def _differs(value: Any) -> bool:
    """Whether relevance can arrive at a value."""
    parts: Sequence[Any] = value if isinstance(value, (tuple, list)) else (value,)
    return bool(parts) and all(map(_is_float, parts))


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _add(
    found: dict[Node, Relevance], node: Node, part: Relevance, values: Mapping[Node, Any]
) -> None:
    old = found.get(node)
    if old is None:
        found[node] = part
    elif isinstance(old, tuple):
        found[node] = tuple(a + b for a, b in zip(old, part, strict=True))
    else:
        found[node] = old + part


def _start(of: str) -> Callable[[torch.Tensor], torch.Tensor]:
    def top(value: torch.Tensor) -> torch.Tensor:
        best = value.amax(-1, keepdim=True)
        return torch.where(value == best, value, 0)

    return top if of == "top" else torch.square
