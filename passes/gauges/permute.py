"""Put channels in another order: by size, so that neighbours can share an exponent, or in that of
another model, so that the two can be averaged.

A class of channels, what has to be permuted together, is found from the graph; heads, groups and
the halves of rotary pairs keep to themselves. Exact.

**By size** (BFP, A45, F8.6): the channels that contractions read are sorted by their greatest
magnitude on calibration data; or those of the keys that attention reads, within each head,
``q k = (q P)(k P)``, so that a cache of keys in blocks has its outliers in few of them.

**By another model** (Git Re-Basin, F13.1): with everything else as it is, the best order of one
class maximises the product of the two models' weights, ``sum <A, B P'>`` over all that the class
touches, which is a linear assignment; classes take turns until none gains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.optimize import linear_sum_assignment

from ...ir import Graph, InputError, Node
from ...ir.gauge import (
    Blocked,
    Region,
    apply,
    attention_pairs,
    classes,
    inputs_of_contractions,
    transport,
)
from ...ir.gauge.tensors import places_of
from ...ir.laws import Kind
from ..base import Context, Remark, Stage, applied, blocked, missed
from ..calibration import observe
from ..options import COUNT, check_kinds, check_numbers
from ..sites import Asked, SitePass
from ..ties import tie_in_the_way


@dataclass(frozen=True)
class SortChannels(SitePass):
    """Sort what contractions read by its magnitude, the least first.

    Args:
        keys: Sort the channels of keys instead. Rotary embeddings turn pairs of them, which keep
            together; heads that share a table of angles share an order, and layers that do each
            need one of their own.
        untie: Sort even where a tied parameter must then be stored twice.
    """

    keys: bool = False
    untie: bool = False
    what: ClassVar[str] = "a contraction with weights or an attention, or what it reads"
    stage: ClassVar[Stage] = Stage.GAUGE

    def __post_init__(self) -> None:
        check_kinds(self, keys=bool, untie=bool)

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        pairs = attention_pairs(graph)
        sites = (
            [site for site in pairs if site.value is site.readers[0].args[1]]
            if self.keys
            else list(inputs_of_contractions(graph))
        )
        seen = observe(graph, context, {s.value.name: s.axes for s in sites}, self.name, sample=0)
        remarks: list[Remark] = []
        done: set[Node] = set()
        for site in sites:
            if not asked(site.value, *site.readers) or site.value in done:
                continue
            region = transport(graph, site.value, Kind.PERMUTATION, axes=site.axes)
            if not isinstance(region, Region):
                remarks.append(blocked(site.value, str(region), region))
                continue
            done.update(region.actions)
            together = [
                s
                for s in sites
                if s.value in region.actions and region.actions[s.value].axes == s.axes
            ]
            size = torch.zeros(region.size)
            for other in together:
                labels = region.actions[other.value].labels.flatten().long()
                held, found = labels >= 0, seen[other.value.name].absmax
                size.scatter_reduce_(0, labels[held], found[held], "amax")
            if sentence := tie_in_the_way(graph, region, self.untie):
                remarks.append(missed(site.value, sentence))
                continue
            apply(graph, region, _within_cells(region, size))
            names = ", ".join(other.value.name for other in together)
            remarks.append(applied(site.value, f"{region.size} channels sorted: {names}"))
        return remarks


@dataclass(frozen=True)
class Align(SitePass):
    """Put channels in the order of another model of the same architecture.

    Args:
        reference: The other model, traced as this one was.
        rounds: How often each class takes its turn at most.
    """

    reference: Graph
    rounds: int = 20
    what: ClassVar[str] = "a value of a class of channels that weights write"
    stage: ClassVar[Stage] = Stage.GAUGE

    def __post_init__(self) -> None:
        check_kinds(self, reference=Graph)
        check_numbers(self, rounds=COUNT)

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        names = set(graph.params) ^ set(self.reference.params)
        if names:
            raise InputError(
                f"the models differ: {', '.join(sorted(names)[:3])} is in one alone",
                do="align models of one architecture, traced on inputs of the same shapes",
            )
        for name, param in graph.params.items():
            if (other := self.reference.params[name]).shape != param.shape:
                raise InputError(
                    f"the models differ: {name} is {param.type} in one and {other.type} in the "
                    "other",
                    do="align models of one architecture and of the same widths",
                )
        axes: dict[str, tuple[int, ...]] = {}
        remarks: list[Remark] = []
        for site in classes(graph):
            region = site.found[Kind.PERMUTATION]
            if isinstance(region, Region) and asked(*region.actions):
                axes[site.value.name] = site.axes
            elif isinstance(region, Blocked) and asked(site.value):
                remarks.append(blocked(site.value, str(region), region))
        moved = dict.fromkeys(axes, 0)
        tied: dict[str, str] = {}
        for _ in range(self.rounds):
            changed = False
            for name in axes:
                region = transport(graph, graph[name], Kind.PERMUTATION, axes=axes[name])
                if not isinstance(region, Region):
                    continue
                if sentence := tie_in_the_way(graph, region):
                    tied[name] = sentence
                    continue
                order = self._best(graph, region)
                if order is not None:
                    moved[name] += int((order != torch.arange(region.size)).sum())
                    apply(graph, region, order)
                    changed = True
            if not changed:
                break
        return remarks + [
            applied(graph[name], f"{count} channels moved") if count
            else missed(graph[name], tied.get(name, "its channels are in the best order already"))
            for name, count in moved.items()
        ]  # fmt: skip

    def _best(self, graph: Graph, region: Region) -> torch.Tensor | None:
        """The order that brings the weights closest to the reference's, if that is a gain."""
        gain = torch.zeros(region.size, region.size, dtype=torch.float64)
        for edit in region.edits.values():
            param = edit.node.args[edit.port[0]]
            if isinstance(param, Node):
                ours = places_of(graph.value(param), edit.action, region.size)
                theirs = places_of(self.reference.store[param.name], edit.action, region.size)
                gain += theirs.double() @ ours.double().T
        order = torch.arange(region.size)
        for members in region.members:
            best = linear_sum_assignment(gain[members][:, members].numpy(), maximize=True)[1]
            order[members] = members[torch.from_numpy(best)]
        before, after = gain.diagonal().sum(), gain[torch.arange(region.size), order].sum()
        return order if after > before + 1e-12 * gain.abs().sum() else None


def _within_cells(region: Region, size: torch.Tensor) -> torch.Tensor:
    """The order by size, cell by cell."""
    order = torch.arange(len(size))
    for members in region.members:
        order[members] = members[torch.argsort(size[members], stable=True)]
    return order
