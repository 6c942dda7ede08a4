"""Put the inputs of contractions in an order in which zeros of n of each m cost less.

    maximise  sum over groups of m neighbours, and rows, of the n greatest worths in the group

A permutation of channels is a gauge: what writes them and all that read them are permuted together,
so nothing changes but which inputs are neighbours. From the order that is, two channels of
different groups are swapped as long as that gains, the best swaps first (Pool and Yu 2021, channel
permutations for N:M sparsity). With n of the m places, t the n-th greatest worth of a group without
channel i, and S the sum of those greater, channel j in the place of i leaves ``S + max(w_j, t)``.

Exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ....ir import Graph, InputError
from ....ir.gauge import Region, Site, apply, inputs_of_contractions, transport
from ....ir.laws import Kind
from ...base import Context, Remark, Stage, applied, blocked, missed
from ...calibration import as_matrix, evenly, observe
from ...patterns import NofM, Pattern, named_pattern
from ...sites import Asked, SitePass
from ...ties import tie_in_the_way

SWEEPS = 50  # over all pairs of channels, at most
ELEMENTS = 2**19  # that are compared at once
ROWS = 512  # that decide, of more
LEAST = 1e-3  # gain of a swap, as a part of a channel's mean worth


@dataclass(frozen=True)
class PermuteInputs(SitePass):
    """Permute channels so that a pattern of n of each m keeps more.

    Weights count by Wanda's worth where there is calibration data, by magnitude where there is
    none.

    Args:
        pattern: n of m, as of ``Sparsify``.
        untie: Permute even where a tied parameter must then be stored twice.
    """

    pattern: Pattern | str = "2:4"
    untie: bool = False
    what: ClassVar[str] = "a value that contractions read, or one of them"
    stage: ClassVar[Stage] = Stage.GAUGE

    def __post_init__(self) -> None:
        if not isinstance(named_pattern(self.pattern), NofM):
            raise InputError(
                f"the order of inputs does not matter to the pattern {self.pattern}",
                do="n of m, such as pattern='2:4'",
            )

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        pattern = named_pattern(self.pattern)
        assert isinstance(pattern, NofM)
        remarks: list[Remark] = []
        sites: list[Site] = []
        for site in inputs_of_contractions(graph):
            if not (refusal := pattern.refusal(0, site.size)):
                sites.append(site)
            elif asked(site.value, *site.readers):
                remarks.append(missed(site.value, refusal))
        power = self._power(graph, context, sites)
        done: set[str] = set()
        for site in sites:
            if not asked(site.value, *site.readers) or site.value.name in done:
                continue
            region = transport(graph, site.value, Kind.PERMUTATION, axes=site.axes)
            if not isinstance(region, Region):
                remarks.append(blocked(site.value, str(region), region))
                continue
            together = [s for s in sites if _plain(region, s)]
            done.update(s.value.name for s in sites if s.value in region.actions)
            if site not in together:
                remarks.append(missed(site.value, "its channels move several at once"))
            elif sentence := tie_in_the_way(graph, region, self.untie):
                remarks.append(missed(site.value, sentence))
            else:
                worth = torch.cat(
                    [
                        as_matrix(graph.value(reader.args[1])).double().square()
                        * power.get(s.value.name, 1.0)
                        for s in together
                        for reader in s.readers
                        if reader.args[1].op == "param"
                    ]
                )
                order, before, after = best_order(worth, pattern, region.members)
                if after > before:
                    apply(graph, region, order)
                    gain = f"{100 * before:.4g} to {100 * after:.4g} % of the worth is kept"
                    remarks.append(applied(site.value, gain, before=before, after=after))
                else:
                    remarks.append(missed(site.value, "no swap keeps more"))
        return remarks

    def _power(self, graph: Graph, context: Context, sites: list[Site]) -> dict[str, torch.Tensor]:
        """The mean square of each channel, by the name of the value."""
        if not context.calibration:
            return {}
        axes = {site.value.name: site.axes for site in sites}
        seen = observe(graph, context, axes, self.name)
        return {name: one.rows.double().square().mean(0) for name, one in seen.items()}


def _plain(region: Region, site: Site) -> bool:
    """Whether the channels of a site are the coordinates of a region, in order."""
    action = region.actions.get(site.value)
    if action is None or action.axes != site.axes or site.size != region.size:
        return False
    labels = action.labels.flatten().long()
    return torch.equal(labels, torch.arange(region.size))


def best_order(
    worth: torch.Tensor, pattern: NofM, cells: list[torch.Tensor]
) -> tuple[torch.Tensor, float, float]:
    """An order of the columns of ``[R, n]`` that no swap improves on some of the rows, and the
    parts of the worth of all that are kept before and after.

    Args:
        cells: The channels that may change places with each other.
    """
    n, total = worth.shape[1], float(worth.sum().clamp(min=1e-300))
    order, place = torch.arange(n), torch.arange(n) // pattern.m
    cell = torch.empty(n, dtype=torch.int64)
    for index, members in enumerate(cells):
        cell[members] = index
    swaps = _Swaps((evenly(worth, ROWS) / total * n).float(), pattern)
    for _ in range(SWEEPS):
        gains = swaps.moved + swaps.moved.T
        gains[(place[:, None] == place) | (cell[:, None] != cell)] = 0.0
        changed: set[int] = set()
        tried = order.clone()
        best, where = gains.triu().flatten().topk(min(4 * n, n * n))
        for gain, at in zip(best.tolist(), where.tolist(), strict=True):
            i, j = divmod(at, n)
            groups = {i // pattern.m, j // pattern.m}
            if gain > LEAST and not groups & changed:  # gains of others have changed
                tried[i], tried[j] = order[j], order[i]
                changed |= groups
        if not changed:
            break
        order = tried
        swaps.put(order, torch.isin(place, torch.tensor(sorted(changed))))
    return order, kept(worth, pattern) / total, kept(worth[:, order], pattern) / total


def kept(worth: torch.Tensor, pattern: NofM) -> float:
    """The worth that the best mask of a pattern keeps."""
    return float(worth.unflatten(1, (-1, pattern.m)).topk(pattern.n, -1).values.sum())


class _Swaps:
    """What putting each column in the place of each other one gains, kept up to date.

    Attributes:
        moved: ``[n, n]``: in [i, j] what the group of place i gains with the column of place j in
            the place of i. A swap is worth ``moved + moved'``.
    """

    def __init__(self, worth: torch.Tensor, pattern: NofM) -> None:
        self.worth, self.pattern, n = worth, pattern, worth.shape[1]
        self.moved = torch.zeros(n, n, dtype=worth.dtype)
        self.put(torch.arange(n), torch.ones(n, dtype=torch.bool))

    def put(self, order: torch.Tensor, changed: torch.Tensor) -> None:
        """Have the columns in an order.

        Args:
            changed: ``bool[n]``: the places in groups that have other columns than before.
        """
        now, m = self.worth[:, order], self.pattern.m
        groups = now.unflatten(1, (-1, m))  # [R, G, m]
        own = groups.topk(self.pattern.n, -1).values.sum((0, 2)).repeat_interleave(m)  # [n]
        parts = [torch.cat([groups[..., :i], groups[..., i + 1 :]], -1) for i in range(m)]
        others = torch.stack(parts).movedim(0, 2).flatten(1, 2)  # [R, n, m - 1]
        top = others.topk(min(self.pattern.n, m - 1), -1).values
        least, fixed = top[..., -1], top[..., :-1].sum((0, 2)) - own
        here, rest = torch.nonzero(changed).flatten(), torch.nonzero(~changed).flatten()
        self._fill(here, torch.arange(len(changed)), now, least, fixed)
        self._fill(rest, here, now, least, fixed)

    def _fill(
        self,
        rows: torch.Tensor,
        columns: torch.Tensor,
        now: torch.Tensor,
        least: torch.Tensor,
        fixed: torch.Tensor,
    ) -> None:
        """The gains at some places, with the columns of some."""
        there = now[:, columns]
        for part in rows.split(max(ELEMENTS // max(there.numel(), 1), 1)):
            best = torch.maximum(there[:, None], least[:, part, None]).sum(0)
            self.moved[part[:, None], columns] = best + fixed[part, None]
