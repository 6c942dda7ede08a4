"""Round to codes what attention multiplies.

    softmax(s q k') v   becomes   softmax(code(s q) code(k)') v

with q and k in eight bits about zero, each with one scale from the range that was seen: a product
of codes then needs no correction for zero points, which few kernels of two computed factors have.
What the softmax gives is rounded where it is asked for. Most of it is far below the 255th part of
one, so even eight bits cost several times the error of the scores; powers of two and of its root
(``static-logsqrt2-4``, A52) follow it further down. Approximate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch

from ...ir import Graph, Node
from ...ir.gauge import Site
from ...ir.gauge.sites import is_weight
from ...ir.laws import Add, Elementwise, Movement, Mul, Softmax, Where
from ...ir.ops import has_law
from ..base import Context, Pass, Promise, Remark, Stage, applied, missed
from ..calibration import Observation, observe
from .choices import PRODUCTS
from .insertion import about_zero
from .token_weights import ATTENTION
from .values import Activations, Limits, Static, coding, format_of

_SCORED = (Add, Elementwise, Movement, Mul, Where)  # masks, scales and caps of scores
_WEIGHING = (Elementwise, Movement, Where)  # behind the softmax

_Factors: TypeAlias = dict[Node, dict[Node, None]]  # a value, and the products that read it


@dataclass(frozen=True)
class QuantizeAttention(Pass):
    """Give codes to queries and keys, and to probabilities and values where asked.

    A target gains by it that multiplies codes by codes, and takes attention in its parts
    (``Legalize``); one with an op for attention computes it on rounded numbers. Comes after
    ``Quantize``.

    Args:
        probabilities: What the softmax gives in, as ``Quantize`` has activations: ``static``, or
            the name of a format, which is simulated. The values that it weighs are then in eight
            bits, as keys are. ``None`` leaves both as they are.
    """

    probabilities: Activations | None = None
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.QUANTIZE

    def __post_init__(self) -> None:
        format_of(self.probabilities)  # raises where it is none

    @property
    def activation_codes(self) -> tuple[str, ...]:
        return ("static",) if self.probabilities is None else ("static", self.probabilities)

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        remarks: list[Remark] = []
        even, weights = _Factors(), _Factors()
        for node in _scores(graph):
            _add(even, node, node.args[:2])
            remarks.append(applied(node, "queries and keys in codes"))
        if self.probabilities is not None:
            for node, given in _weighed(graph):
                _add(weights, node, [given])
                _add(even, node, [arg for arg in node.args[:2] if arg is not given])
                remarks.append(applied(node, f"probabilities in {self.probabilities}"))
            remarks += [_whole(node) for node in graph.nodes if _is_attention(node)]
        even = {value: readers for value, readers in even.items() if value not in weights}
        if not even and not weights:
            return remarks
        axes = {value.name: -1 for value in (*even, *weights)}
        seen = observe(graph, context, axes, self.name, sample=0)
        for value, readers in even.items():
            made = Static(*about_zero(seen[value.name].absmax))
            made.insert(graph, Site(value, -1, tuple(readers)))
        for value, readers in weights.items():
            site = Site(value, -1, tuple(readers))
            limits = _limits(seen[value.name])
            made = coding(self.probabilities, site, lambda found=limits: found)
            assert made is not None
            made.insert(graph, site)
        return remarks


def _add(factors: _Factors, product: Node, values: Iterable[Node]) -> None:
    for value in values:
        factors.setdefault(value, {})[product] = None


def _limits(seen: Observation) -> Limits:
    return (seen.low.min(), seen.high.max()) if seen.count else (torch.zeros(()), torch.ones(()))


def _is_attention(node: Node) -> bool:
    return node.op == ATTENTION


def _whole(attention: Node) -> Remark:
    return missed(
        attention,
        "attention is one op, and nobody sees its probabilities",
        f"put Legalize(frozenset({{{ATTENTION!r}}})) before",
    )


def _scores(graph: Graph) -> Iterator[Node]:
    """Ops of which a softmax weighs by the products of the first two operands, both computed."""
    found = dict[Node, None]()
    for node in graph.nodes:
        if _is_attention(node):
            found[node] = None
        elif has_law(node.op, Softmax):
            found |= dict.fromkeys(_products(node.args[0]))
    for node in found:
        if not any(is_weight(factor) or factor.op == "dequantize" for factor in node.args[:2]):
            yield node


def _products(scores: Node) -> Iterator[Node]:
    """What scores are the products of, masked, scaled or added up."""
    pending, seen = [scores], set[Node]()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op in PRODUCTS:
            yield node
        elif has_law(node.op, *_SCORED):
            pending += [arg for arg in node.inputs if arg.dtype.is_floating_point]


def _weighed(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """Products of what a softmax gives, moved or masked, and of a value; and that factor."""
    pending = [node for node in graph.nodes if node.op == "softmax"]
    seen = set[Node](pending)
    while pending:
        node = pending.pop()
        for user in node.users:
            if user.op in PRODUCTS:
                if not any(is_weight(factor) for factor in user.args[:2]):
                    yield user, node
            elif has_law(user.op, *_WEIGHING) and user not in seen:
                seen.add(user)
                pending.append(user)
