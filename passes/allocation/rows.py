"""Bits for each output feature (A83): of all rows of all weights, those keep more bits for which
few would do most damage.

    y = W x + c    becomes    y = P' [W_1 x + c_1; W_2 x + c_2]        P W = [W_1; W_2]

The rows of a linear layer are sorted into two layers of one format each, whose results are joined
and put back in order. Where the order of a layer's results is free, and nothing else of the choice
depends on it, the layers behind take up the permutation and nothing is put back. That is exact;
what ``Quantize`` then does is approximate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, TypeAlias, get_args

import torch

from ...ir import Graph, InputError, Node
from ...ir.gauge import Region, apply, transport
from ...ir.laws import Kind
from ..base import Context, Pass, Promise, Remark, Stage, applied
from ..options import SHARE, check_kinds, check_known, check_numbers
from ..quantization.choices import CHANNELWISE, Choice, reads_weights
from ..quantization.quantize import Quantize
from ..ties import tie_in_the_way
from .candidates import Candidates
from .gradient import Gradient
from .units import Unit, numel, units, weight_of

Over: TypeAlias = Literal["all", "layer", "chance"]


@dataclass(frozen=True)
class AllocateRows(Pass):
    """Some of the rows of linear layers in a format of more bits, and quantize.

    Args:
        part: Of all weights, how many are in those rows.
        low, high: The formats.
        over: What rows are compared with each other: those of all layers, or of each by itself; or
            rows are drawn (to see what the score is worth).
        score: Which rows would do most damage.
        quantize: How it is then done, and with all the rest.
    """

    part: float = 0.1
    low: str = "int4-g128-asym"
    high: str = CHANNELWISE
    over: Over = "all"
    score: Gradient = field(default_factory=Gradient)
    quantize: Quantize = field(default_factory=lambda: Quantize(None))
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.QUANTIZE

    def __post_init__(self) -> None:
        check_numbers(self, part=SHARE)
        check_known([self.over], get_args(Over), "range of rows")
        check_kinds(self, low=str, high=str, score=Gradient, quantize=Quantize)

    @property
    def formats(self) -> tuple[str, ...]:
        return replace(self.quantize, weights=self.low, tables=None).formats + tuple(
            name for name in (self.high, self.quantize.tables) if name and name != CHANNELWISE
        )

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        kind = self.quantize.activations
        low, high = Choice(self.low, kind), Choice(self.high, kind)
        found = self.units(graph)
        if not found:
            raise InputError(
                "there are no rows to allocate bits to: no linear layer has a weight of its own of "
                f"least={self.quantize.least} elements or more",
                do="quantize=Quantize(None, least=...) says which count; Allocate chooses for "
                "convolutions and tables",
            )
        candidates = Candidates.of(graph, context, found, [low, high])
        fits = [bool(row[:2].all()) for row in candidates.offered]
        chosen = context.journal.once("rows", lambda: self.chosen(candidates, fits))
        # Few rows may be few weights: what is left as it is, is told by name.
        small = {node.name for node in graph.nodes if self._is_small(node)}
        choices, remarks = dict.fromkeys(small, Choice(None, None)), list[Remark]()
        plan = {
            unit.readers[0]: rows
            for unit, rows, fit in zip(found, chosen, fits, strict=True)
            if fit
        }
        free = free_orders(graph, plan)
        for reader, rows in plan.items():
            best, rest = split_rows(graph, reader, rows, region=free.get(reader))
            choices |= {node.name: high for node in [best] if node is not None}
            choices |= {node.name: low for node in [rest] if node is not None}
            text = f"{int(rows.sum())} of {len(rows)} rows in {self.high}"
            remarks.append(applied(reader, text, preparation=True, rows=int(rows.sum())))
        choices |= self.quantize.choices
        quantize = replace(self.quantize, choices=choices, least=1)
        return remarks + quantize.run(graph, context)

    def units(self, graph: Graph) -> list[Unit]:
        """The linear layers whose rows there are to choose from."""
        options = self.quantize
        found = units(graph, least=options.least, embeddings=False, settled=options.choices)
        return [unit for unit in found if _is_alone(unit)]

    def _is_small(self, node: Node) -> bool:
        return reads_weights(node) and numel(weight_of(node)) < self.quantize.least

    def chosen(
        self,
        candidates: Candidates,
        fits: Sequence[bool],
        damages: Sequence[torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        """For each unit, which rows keep more bits: ``bool[O]``.

        Args:
            candidates: With the fewer bits as the first choice, the more as the second.
            fits: Which units have both.
            damages: Of the rows of each unit in each choice, where they are known.
        """
        width = [int(unit.weights[0].shape[1]) for unit in candidates.units]
        if self.over == "chance":
            generator = candidates.context.generator()
            heights = [int(unit.weights[0].shape[0]) for unit in candidates.units]
            gains = [torch.rand(rows, generator=generator) for rows in heights]
        else:
            damages = self.score.of_rows(candidates) if damages is None else damages
            gains = [part[0] - part[1] for part in damages]
        groups = [[i] for i in range(len(gains))]
        if self.over != "layer":
            groups = [list(range(len(gains)))]
        found = [torch.zeros(len(gain), dtype=torch.bool) for gain in gains]
        for group in groups:
            members = [i for i in group if fits[i]]
            if not members:
                continue
            rate = torch.cat([gains[i].double() / width[i] for i in members])
            cost = torch.cat([torch.full((len(gains[i]),), float(width[i])) for i in members])
            order = torch.argsort(rate, descending=True, stable=True)
            taken = torch.cumsum(cost[order].double(), 0) <= self.part * float(cost.sum())
            picked = torch.zeros(len(rate), dtype=torch.bool)
            picked[order[taken]] = True
            parts = picked.split([len(gains[i]) for i in members])
            for i, rows in zip(members, parts, strict=True):
                found[i] = rows
        return found


def split_rows(
    graph: Graph, reader: Node, rows: torch.Tensor, *, region: Region | None = None
) -> tuple[Node | None, Node | None]:
    """Two linear layers in the place of one: of the rows that are picked, and of the others.

    Args:
        rows: ``bool[O]``. Where it picks all or none, the layer stays, and is the one or the other.
        region: Of permutations of the results, where what reads them shall take up the order.

    Returns:
        Both layers, ``None`` for one without rows.
    """
    if not bool(rows.any()):
        return None, reader
    if bool(rows.all()):
        return reader, None
    order = torch.cat([torch.nonzero(rows)[:, 0], torch.nonzero(~rows)[:, 0]])
    if region is not None:
        apply(graph, region, order)
    count, name, place = int(rows.sum()), reader.name, reader
    weight, bias = reader.args[1], reader.operand(2)
    parts: list[Node] = []
    for index, hint in ((order[:count], "high"), (order[count:], "low")):
        start = 0 if hint == "high" else count
        picked = torch.arange(start, start + len(index)) if region is not None else index
        args = [reader.args[0]]
        for param in (weight, bias):
            if param is not None:
                origin = graph.store.origin.get(param.name, (param.name,))
                value = graph.value(param)[picked]
                args.append(graph.param(f"{param.name}_{hint}", value, origin=origin))
        parts.append(
            graph.add("linear", *args, name=f"{name}_{hint}", before=place, where=reader.where)
        )
    joined = graph.add("cat", tuple(parts), dim=-1, name=f"{name}_joined", before=place)
    if region is None:
        back = graph.param(f"{name}_order", torch.argsort(order), origin=())
        joined = graph.add("index_select", joined, back, dim=-1, name=name, before=place)
    joined.type, joined.where = reader.type, reader.where
    graph.replace(reader, joined, keep=())
    graph.erase(reader)
    graph.prune()
    return parts[0], parts[1]


def free_orders(graph: Graph, plan: Mapping[Node, torch.Tensor]) -> dict[Node, Region]:
    """Of these linear layers, those whose results may stand in any order, with what takes it up.

    A class of channels that several of them write has but one order; it is left as it is.
    """
    found: dict[Node, Region] = {}
    for reader in plan:
        region = transport(graph, reader, Kind.PERMUTATION, axes=(-1,))
        if not isinstance(region, Region) or region.inserted or region.restores:
            continue
        writers = {
            edit.node
            for edit in region.edits.values()
            if edit.port == (1,) and edit.action.axes == (-2,)
        }
        labels = region.actions[reader].labels.flatten()
        whole = len(region.members) == 1 and len(region.members[0]) == region.size
        plain = torch.equal(labels.long(), torch.arange(int(reader.shape[-1])))
        if writers & plan.keys() == {reader} and whole and plain:
            if not tie_in_the_way(graph, region):
                found[reader] = region
    return found


def _is_alone(unit: Unit) -> bool:
    """Whether a unit is one linear layer with a weight of its own."""
    return len(unit.readers) == 1 and unit.readers[0].op == "linear"
