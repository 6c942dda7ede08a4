"""Leave out the channels that nothing depends on: dead channels.

A channel is dead where all weights that read it are zero, or where what is written to it is zero,
or any constant, whatever the data; a constant's part in what reads it goes into the bias there.
Training with penalties on norms' weights leaves such channels, and so does pruning by masks. All of
the graph's classes of channels are looked at (``groups``), and a channel goes only with the unit
that it belongs to. Exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ....ir import Graph
from ....ir.gauge import dead, drop
from ...base import Context, Remark, Stage, applied, missed
from ...sites import Asked, SitePass
from ...ties import tie_in_the_way
from ..groups import Group, groups


@dataclass(frozen=True)
class DropDead(SitePass):
    """Leave out dead channels.

    Args:
        untie: Do it even where a tied parameter must then be stored twice.
    """

    untie: bool = False
    what: ClassVar[str] = "a value that holds a class of channels"
    stage: ClassVar[Stage] = Stage.FOLD

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        made: list[Remark] = []
        while True:  # what goes may have been all that read something else
            stay: list[Remark] = []
            for group in groups(graph)[0]:
                remark = self._shorten(graph, group) if asked(*group) else None
                if remark is not None and remark.applied:
                    made.append(remark)
                    break  # the other groups are of the graph as it was
                stay += [remark] if remark is not None else []
            else:
                return [*made, *stay]

    def _shorten(self, graph: Graph, group: Group) -> Remark | None:
        found = dead(graph, group.region)
        units = torch.ones(group.count, dtype=torch.bool)
        units[group.unit[~found.coordinates]] = False  # a unit goes as a whole
        if not bool(units.any()):
            return None
        count = f"{int(units.sum())} of {group.count} {group.role}"
        if bool(units.all()):
            return missed(group.value, f"all of its channels are dead: {group.role}")
        if sentence := tie_in_the_way(graph, group.region, self.untie):
            return missed(group.value, f"{count} are dead, and stay: {sentence}")
        gone = group.coordinates(units)
        for reader, part in found.sums(gone).items():
            bias = reader.operand(2)
            old = torch.zeros_like(part) if bias is None else graph.value(bias).double()
            graph.give(reader, 2, (old + part).to(reader.dtype), name=f"{reader.name}_bias")
        value = group.value
        drop(graph, group.region, ~gone)
        return applied(value, f"{count} are dead, and left out")
