"""What can be left out of a graph: groups of channels, each in units that go as wholes.

Nothing is named: a class of channels whose group holds permutations is what can lose coordinates,
and the ops that hold it say in which units (``ir.gauge.units``). What a group is for follows from
the graph too:

    stream   channels that an addition joins from several writers: a residual stream
    hidden   other channels that weights write and weights read: of an FFN, between convolutions
    heads    of an attention, queries that share keys and values go with them; or of any other value
             whose channels are taken apart into heads
    keys     channels that queries and keys are multiplied over, the same ones of each head
    values   channels of what an attention sums up, the same ones of each head
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch

from ...ir import Graph, Node, astype
from ...ir.gauge import (
    Blocked,
    Region,
    Site,
    attention_heads,
    attention_pairs,
    cannot_drop,
    classes,
    split_channels,
    transport,
    units,
)
from ...ir.gauge.region import operand, operands
from ...ir.gauge.sites import CONTRACTIONS, WRITERS
from ...ir.laws import Action, Add, Kind, compact
from ...ir.ops import has_law

Role: TypeAlias = Literal["stream", "hidden", "heads", "keys", "values"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that can be left out together.

    Attributes:
        value: A value that holds them.
        axes: Over which they vary in it.
        unit: ``[size]``: the unit that each coordinate of the region belongs to.
        region: Of this graph, as it is now.
    """

    value: Node
    axes: tuple[int, ...]
    role: Role
    unit: torch.Tensor
    region: Region

    @property
    def name(self) -> str:
        return f"{self.value.name}/{self.role}"

    @property
    def count(self) -> int:
        """How many units there are."""
        return int(self.unit.max()) + 1

    @property
    def size(self) -> int:
        """How many channels a unit has."""
        return len(self.unit) // self.count

    @property
    def what(self) -> str:
        """What is counted of it: heads, or channels."""
        return "heads" if self.role == "heads" else f"channels of {self.role}"

    @property
    def step(self) -> int:
        """How many of what is counted go with a unit."""
        return 1 if self.role == "heads" else self.size

    @property
    def total(self) -> int:
        """How many of what is counted there are."""
        return self.count * self.step

    @property
    def together(self) -> str:
        """That channels go as wholes, and by which norm; empty where what is counted goes alone."""
        if self.step == 1:
            return ""
        for node in self:
            if node.op == "group_norm" and node.attrs["num_groups"] == self.count:
                return (
                    f"groups of {self.size} go as a whole, as {node.name} (group_norm) norms them"
                )
        return f"{self.size} channels go as a whole"

    @functools.cached_property
    def places(self) -> set[tuple[Node, int]]:
        """The values that hold the units, with the axes along which one follows the other."""
        found: set[tuple[Node, int]] = set()
        for node, action in self.region.actions.items():
            units = torch.where(action.labels >= 0, self.unit[action.labels.long()], -1)
            found |= {(node, axis) for axis in Action(compact(units)).axes}
        return found

    def is_same(self, other: Group) -> bool:
        """Whether the units are those of another group."""
        parts: list[torch.Tensor] = []
        for group in (self, other):
            action = group.region.actions.get(self.value)
            if action is None or bool((action.labels < 0).any()):
                return False
            parts.append(group.unit[action.labels.long()])
        return parts[0].shape == parts[1].shape and torch.equal(
            *(part.unique(return_inverse=True)[1] for part in parts)
        )

    def coordinates(self, kept: torch.Tensor) -> torch.Tensor:
        """Which coordinates stay where these units do, ``bool[size]``."""
        return kept[self.unit]

    def held(self) -> Iterator[tuple[Node, Action]]:
        """The parameters that hold the channels, and how; once for all that read them alike."""
        seen: set[tuple[Node, tuple[int, ...]]] = set()
        for edit in self.region.edits.values():
            param = operand(edit.node, edit.port)
            if param is not None and (param, edit.action.axes) not in seen:
                seen.add((param, edit.action.axes))
                yield param, edit.action

    def __iter__(self) -> Iterator[Node]:
        """The values that hold the channels."""
        return iter(self.region.actions)


@dataclass(frozen=True, eq=False)
class Reader:
    """A contraction that sums over the channels of a group.

    Attributes:
        node: The linear layer or convolution.
        labels: The coordinate of each channel of what it reads, -1 for others, ``[n]``.
    """

    node: Node
    labels: torch.Tensor

    @property
    def data(self) -> Node:
        return self.node.args[0]

    def units(self, group: Group) -> torch.Tensor:
        """The unit of each channel of what it reads, -1 of those that hold none."""
        return torch.where(self.labels >= 0, group.unit[self.labels], -1)


def groups(
    graph: Graph, roles: Collection[Role] = ROLES
) -> tuple[list[Group], list[tuple[Node, Blocked]]]:
    """The groups of a graph, in order, and what keeps other classes from being any."""
    search = _Search(graph, roles)
    search.attentions()
    search.heads()
    search.channels()
    place = {node: index for index, node in enumerate(graph.nodes)}
    return sorted(search.found, key=lambda group: place[group.value]), search.stopped


class _Search:
    """The groups of a graph, role by role."""

    def __init__(self, graph: Graph, roles: Collection[Role]) -> None:
        self.graph, self.roles = graph, roles
        self.found: list[Group] = []
        self.stopped: list[tuple[Node, Blocked]] = []
        self.attended: set[Node] = set()
        self.held: dict[Role, set[Node]] = {role: set() for role in ROLES}

    def attentions(self) -> None:
        for site in attention_pairs(self.graph):
            region = self._region(site)
            if isinstance(region, Region):
                self.attended |= region.actions.keys()
            self._look(site, "keys" if site.value is site.readers[0].args[1] else "values", region)

    def heads(self) -> None:
        if "heads" not in self.roles:
            return
        for site in attention_heads(self.graph):
            self._look(site, "heads", self._region(site))
        for site in split_channels(self.graph):
            if site.heads is None:
                self._look_for_more(site, "heads")

    def channels(self) -> None:
        if {"stream", "hidden"}.isdisjoint(self.roles):
            return
        for site in classes(self.graph):
            region = site.found[Kind.PERMUTATION]
            if isinstance(region, Blocked):
                self.stopped.append((site.value, region))
            elif self.attended.isdisjoint(region.actions):  # not those of all heads at once
                self._look(site, "stream" if _joins(region) else "hidden", region)
        for site in split_channels(self.graph):
            if site.heads is not None:
                self._look_for_more(site, "hidden")

    def _region(self, site: Site) -> Region | Blocked:
        return transport(self.graph, site.value, Kind.PERMUTATION, axes=site.axes)

    def _look(self, site: Site, role: Role, region: Region | Blocked) -> None:
        if role not in self.roles or site.value in self.held[role]:
            return  # several attentions hold the same: heads that share a bias of positions, say
        ways = units(self.graph, region) if isinstance(region, Region) else []
        if isinstance(region, Region) and ways:
            group = Group(site.value, site.axes, role, ways[0], region)
            if any(group.is_same(other) for other in self.found):
                return
            self.found.append(group)
        if isinstance(region, Region):
            self.held[role] |= region.actions.keys()
        if ways:
            return
        reason = region if isinstance(region, Blocked) else cannot_drop(self.graph, region)
        if reason is not None:
            self.stopped.append((site.value, reason))

    def _look_for_more(self, site: Site, role: Role) -> None:
        """A group where channels are taken apart, if they are of none yet; what blocks it blocks
        all channels at once, and is named there."""
        known = any((site.value, site.axis) in group.places for group in self.found)
        if role in self.roles and site.value not in self.attended and not known:
            region = self._region(site)
            if isinstance(region, Region):
                self._look(site, role, region)


def _joins(region: Region) -> bool:
    """Whether several ops with weights give the channels, and an addition has two operands that
    hold them, neither of which is a parameter."""
    if sum(node.op in WRITERS for node in region.actions) < 2:
        return False
    for node in region.actions:
        if has_law(node.op, Add):
            if sum(value in region.actions for value in operands(node).values()) > 1:
                return True
    return False


def readers(group: Group) -> list[Reader]:
    """The contractions with weights that sum over the channels, in order."""
    found: list[Reader] = []
    for edit in group.region.edits.values():
        axis = CONTRACTIONS.get(edit.node.op)
        if axis is None or edit.port != (1,) or axis not in edit.action.axes:
            continue
        if edit.node.attrs.get("groups", 1) > 1 or edit.node.args[0] not in group.region.actions:
            continue
        found.append(Reader(edit.node, edit.action.labels.flatten().long()))
    return found


def kept_rows(labels: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Which places stay: those that hold a coordinate that does, and those that hold none."""
    return torch.cat([kept, kept.new_ones(1)])[labels]


def in_full(graph: Graph) -> Graph:
    """A copy in float32, in which sums over data keep their digits; in float64 where it is that."""
    wide = any(param.dtype == torch.float64 for param in graph.params.values())
    return graph.copy() if wide else astype(graph, torch.float32)
