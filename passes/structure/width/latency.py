"""The time of a graph with some of its units left out, from measured times (A74's lookup table).

Times are measured for equal blocks, on a grid of how many units each role keeps: on a target of the
library (``LatencyTable.on``), or elsewhere (``LatencyTable.measured``). In between they are
interpolated, linearly along each axis; a graph whose blocks differ takes the mean of the times that
it would take if all were like each one. Times that are sums over blocks are given exactly on the
grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.interpolate import RegularGridInterpolator

from ....ir import Graph, InputError
from ...base import Context
from ...options import check_known
from ..groups import Group, Role, groups
from ..timing import Lowers, Stopwatch
from .prune import Prune


@dataclass(frozen=True)
class LatencyTable:
    """What ``Prune(of="latency", latency=...)`` can ask.

    Args:
        grid: Of each role, how many units were kept, rising.
        times: For each point of the grid, its axes in the order of the roles.
        blocks: Of each block, the group of every role, by name; blocks may share groups.
    """

    grid: Mapping[Role, Sequence[int]]
    times: torch.Tensor
    blocks: Sequence[Mapping[Role, str]]

    def __post_init__(self) -> None:
        if not self.blocks or any(not self.grid.keys() <= block.keys() for block in self.blocks):
            raise InputError(
                f"the {len(self.blocks)} blocks do not each have a group of {', '.join(self.grid)}",
                do="a grid of roles that all blocks have, and at least one block",
            )
        shape = tuple(len(points) for points in self.grid.values())
        if tuple(self.times.shape) != shape:
            raise InputError(
                f"times of shape {tuple(self.times.shape)} are none for a grid of {shape}",
                do="a time for each choice of one number a role",
            )
        for role, points in self.grid.items():
            if list(points) != sorted(set(points)) or len(points) < 2:
                raise InputError(
                    f"{list(points)} are no grid of {role}", do="two rising numbers or more"
                )

    @classmethod
    def on(
        cls,
        target: Lowers,
        graph: Graph,
        inputs: Sequence[Any],
        grid: Mapping[Role, Sequence[int]],
        **timing: Any,
    ) -> LatencyTable:
        """A table of times on a target: for each point of a grid the graph is made narrower, all
        its blocks alike, and lowered; all are timed in turns.

        Args:
            target: Where the graph is to run; it is timed in the dtype that it has.
            inputs: Flat graph inputs.
            grid: Of each role, how many units are kept, rising to all.
            timing: What ``Stopwatch`` takes besides: ``rounds``, ``progress``, ``options``.

        Raises:
            InputError: A role's groups are of several sizes, or the grid does not end with those,
                or they cannot all have as many units as a point says.
        """
        found = groups(graph, tuple(grid))[0]
        whole = _sizes(found, grid)
        watch = Stopwatch(target, inputs, **timing)

        def times(points: Sequence[Mapping[Role, int]]) -> list[float]:
            made = watch.progress(points, "making narrower graphs")
            return watch([_narrowed(graph, inputs, point, whole) for point in made])

        return cls.measured(grid, times, found)

    @classmethod
    def measured(
        cls,
        grid: Mapping[Role, Sequence[int]],
        times: Callable[[Sequence[Mapping[Role, int]]], Sequence[float]],
        groups: Sequence[Group],
    ) -> LatencyTable:
        """A table of what is measured for all points of a grid, of each how many units every role
        keeps; for groups of which each role has as many as there are blocks, in order, or one that
        all blocks share."""
        choices = itertools.product(*grid.values())
        points = [dict(zip(grid, choice, strict=True)) for choice in choices]
        found = torch.tensor(times(points), dtype=torch.float64)
        return cls(grid, found.view([len(some) for some in grid.values()]), blocks_of(groups))

    def __call__(self, kept: Mapping[str, int]) -> float:
        """The time with so many units of each group, by name; all units of those not named stay."""
        axes = [np.asarray(points, dtype=np.float64) for points in self.grid.values()]
        # Without a fill value the outermost slopes go on beyond the grid.
        beyond: Any = {"bounds_error": False, "fill_value": None}
        look = RegularGridInterpolator(axes, self.times.numpy(), **beyond)
        points = [
            [kept.get(block[role], self.grid[role][-1]) for role in self.grid]
            for block in self.blocks
        ]
        return float(look(np.asarray(points, dtype=np.float64)).mean())


def _sizes(found: Sequence[Group], grid: Mapping[Role, Sequence[int]]) -> dict[Role, int]:
    """How many units each group of a role has, where all have as many and a grid ends with that."""
    sizes: dict[Role, int] = {}
    check_known(grid, {group.role: None for group in found}, "group with the role")
    for role, points in grid.items():
        counts = sorted({group.count for group in found if group.role == role})
        if len(counts) > 1 or not points or points[-1] != counts[0]:
            raise InputError(
                f"groups of {role} have {' and '.join(map(str, counts))} units, and a grid of "
                f"{list(points)} does not end there",
                do="blocks that are alike, and a grid that rises to all of their units",
            )
        sizes[role] = counts[0]
    return sizes


def _narrowed(
    graph: Graph, inputs: Sequence[Any], point: Mapping[Role, int], whole: Mapping[Role, int]
) -> Graph:
    """The graph with so many units of each group, whichever."""
    for role, count in point.items():
        if count == whole[role]:
            continue
        step = Prune(1 - count / whole[role], roles=(role,), score="magnitude", recover=False)
        wanted = {group.name: count for group in groups(graph, (role,))[0]}
        graph, remarks = step.attempt(graph, Context(inputs=inputs))
        kept = [remark.data["kept"] for remark in remarks if "kept" in remark.data]
        if kept != [wanted]:
            reasons = "; ".join(str(remark) for remark in remarks if not remark.applied)
            raise InputError(
                f"groups of {role} cannot all keep {count} of their {whole[role]} units: {reasons}",
                do="another grid, or LatencyTable.measured with times of your own",
            )
    return graph


def blocks_of(groups: Sequence[Group]) -> list[dict[Role, str]]:
    """Groups by block: of each role as many as there are blocks, or one that all share."""
    by_role: dict[Role, list[str]] = {}
    for group in groups:
        by_role.setdefault(group.role, []).append(group.name)
    count = max(map(len, by_role.values()), default=0)
    for role, names in by_role.items():
        if len(names) not in (1, count):
            raise InputError(
                f"{len(names)} groups of {role} cannot be told apart by {count} blocks",
                do="give LatencyTable its blocks",
            )
    return [
        {role: names[index if len(names) > 1 else 0] for role, names in by_role.items()}
        for index in range(count)
    ]
