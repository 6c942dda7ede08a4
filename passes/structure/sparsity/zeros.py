"""Decide the zeros of one layer after another, while two streams run: the exact one, and the one
behind the layers that have zeros already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import torch

from ....ir import Graph, Node, ops
from ....ir.codes import in_kernel_order, out_of_kernel_order
from ....ir.gauge.sites import CONTRACTIONS
from ....ir.memory import give_back
from ...base import Context
from ...calibration import as_rows, padding_mask
from ...journal import journaled
from ...patterns import Sparsity
from ...quantization.evidence import Evidence, MakeUp
from ...quantization.patches import Patches
from ...quantization.streams import Compute, Values, Visit
from ...shelf import Mapped
from ...ties import own
from .refit import WORTH, Worth, least_squares, search, sweep

Method: TypeAlias = Worth | Literal["sweep", "search"]
Recovery: TypeAlias = Literal["none", "sweep", "least-squares"]
METHODS: tuple[Method, ...] = (*get_args(Worth), "sweep", "search")


@journaled
@dataclass(frozen=True)
class Made:
    """What a layer becomes.

    Attributes:
        weight: With its zeros, in its shape.
        bias: A new one.
        notes: What was out of the ordinary.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    notes: list[str]


@dataclass
class Zeros:
    """What is decided for layers, by the names of their nodes.

    Args:
        wanted: The zeros of each weight, by its name.
    """

    wanted: Mapping[str, Sparsity]
    method: Method
    recover: Recovery
    make_up: MakeUp
    made: dict[str, Made] = field(default_factory=dict[str, Made])

    @property
    def needs_exact(self) -> bool:
        """Whether the exact stream says something that the other does not."""
        return self.recover != "none"

    def by_size(self, graph: Graph, node: Node) -> None:
        """Decide by the weights alone."""
        value = graph.value(node.args[1])
        weight = in_kernel_order(value)
        stays = self.wanted[node.args[1].name].mask(weight.double().square())
        self.made[node.name] = Made(out_of_kernel_order(weight * stays, value.shape), None, [])

    def of(self, graph: Graph, context: Context, layers: Iterable[Node]) -> Visit:
        """What visits layers of a graph, and decides."""
        masks = [padding_mask(batch) for batch in context.calibration]
        among = set(layers)

        def visit(node: Node, exact: Values, sparse: Values) -> Compute:
            if node.name not in self.made:  # all that read the same at once
                together = [user for user in node.args[0].users if user in among]
                self._decide(graph, context, together, masks, exact, sparse)
            made = self.made[node.name]
            bias = node.operand(2)
            value = graph.value(bias) if made.bias is None and bias is not None else made.bias
            return lambda data: ops.call(node.op, (data, made.weight, value), node.attrs)

        return visit

    def _decide(
        self,
        graph: Graph,
        context: Context,
        readers: list[Node],
        masks: list[torch.Tensor | None],
        exact: Values,
        sparse: Values,
    ) -> None:
        parts: dict[tuple[Patches | None, bool], list[Node]] = {}
        for reader in readers:
            patches = None if reader.op == "linear" else Patches.of(reader)
            parts.setdefault((patches, self._centers(reader)), []).append(reader)
        for (patches, centered), some in parts.items():
            axis = CONTRACTIONS[some[0].op]

            def rows(values: Values, patches: Patches | None = patches, axis: int = axis) -> Values:
                def of(batch: int) -> torch.Tensor:
                    if patches is None:
                        return as_rows(values[batch], axis, masks[batch])
                    return patches.rows(values[batch], len(values))

                return Mapped(of, len(values))

            def learned(
                some: list[Node] = some, centered: bool = centered, rows: Any = rows
            ) -> list[Made]:
                evidence = Evidence.of(
                    some[0].args[0],
                    rows(exact),
                    rows(sparse),
                    centered=centered,
                    drifts=2 if self.make_up == "held-out" else int(bool(self.make_up)),
                    enough=0,
                )
                return [self._solved(graph, reader, evidence, centered) for reader in some]

            made = context.journal.once(some[0].name, learned)
            self.made |= {reader.name: one for reader, one in zip(some, made, strict=True)}
            give_back()

    def _centers(self, reader: Node) -> bool:
        """Whether a bias takes up the mean error."""
        return own(reader, 2) is not None and self.recover != "none"

    def _solved(self, graph: Graph, reader: Node, evidence: Evidence, centered: bool) -> Made:
        value = graph.value(reader.args[1])
        old = in_kernel_order(value)
        new, notes = self._matrix(old, evidence, self.wanted[reader.args[1].name])
        bias = None
        if centered:
            shift = evidence.mean_exact @ old.T - evidence.mean @ new.T
            bias = graph.value(reader.args[2]) + shift
        return Made(out_of_kernel_order(new, value.shape), bias, notes)

    def _matrix(
        self, weight: torch.Tensor, evidence: Evidence, wanted: Sparsity
    ) -> tuple[torch.Tensor, list[str]]:
        hessian, notes = evidence.hessian, list[str]()
        assert hessian is not None
        if dead := int(hessian.dead.sum()):
            notes.append(f"{dead} of its inputs were never seen: their weights cost nothing")
        method, recover = self.method, self.recover
        if evidence.count < weight.shape[1] and (method not in WORTH or recover != "none"):
            method = "wanda" if method not in WORTH else method
            recover = "none"
            notes.append(
                f"zeros by {method} and nothing makes up for them: {evidence.count} rows say too "
                f"little of {weight.shape[1]} inputs"
            )
        aim = evidence.aim(weight, self.make_up) if recover != "none" else weight
        if method in WORTH:
            start = aim * wanted.mask(WORTH[method](aim, hessian))
        else:
            found = sweep if method == "sweep" else search
            start = found(aim, hessian, wanted.pattern, wanted.remove)
        if recover == "sweep":
            return start, notes + _raised(hessian.raised)
        if recover == "none":
            return weight * (start != 0), notes
        return least_squares(aim, hessian, start != 0, start), notes


def _raised(damp: float) -> list[str]:
    return [f"a singular Hessian, damped by {damp:.0e}"] if damp else []
