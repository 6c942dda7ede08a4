"""Split outlying channels: what contractions read hardly fits few bits where some channels are far
greater than the rest, and so are the weights once these are scaled down (OCS, Zhao et al. 2019).

    W x  =  sum_j  sum_(m <= k_j)  (W_j / k_j) x_j            channel j, k_j times

A hidden unit that is there k times, each with a part of the weights, changes nothing but the number
of units. What is hard for scales to level is the product p_j of a channel's range and of the
greatest weight that reads it: a scale moves from one to the other. So copies are given by

    k_j = ceil(p_j / t),        t the least for which all fit in

and a scale a channel, chosen afterwards (``Smooth``), finds both ranges k_j times less. A class of
channels can be split where nothing but linear layers counts them: the hidden layer of an FFN, gated
or not. Exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ...ir import Graph
from ...ir.gauge import Region, Site, can_repeat, inputs_of_contractions, repeat, transport
from ...ir.laws import Kind
from ..base import Context, Remark, Stage, applied, blocked, missed
from ..calibration import observe
from ..options import COUNT, SHARE, check_numbers
from ..sites import Asked, SitePass
from ..ties import tie_in_the_way

LEAST_GAIN = 2.0  # in the greatest p, below which more units are not worth their time


@dataclass(frozen=True)
class SplitOutliers(SitePass):
    """Give outlying channels several copies.

    Args:
        share: How many channels may be added, as a part of those there are.
        multiple: Of which the new number of channels is one, as kernels like it.
    """

    share: float = 0.05
    multiple: int = 32
    what: ClassVar[str] = "a contraction with weights, or what it reads"
    stage: ClassVar[Stage] = Stage.GAUGE

    def __post_init__(self) -> None:
        check_numbers(self, share=SHARE, multiple=COUNT)

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        sites = [
            site
            for site in inputs_of_contractions(graph)
            if all(reader.op == "linear" for reader in site.readers)
            and asked(site.value, *site.readers)
        ]
        seen = observe(graph, context, {s.value.name: s.axis for s in sites}, self.name, sample=0)
        remarks: list[Remark] = []
        for site in sites:
            region = transport(graph, site.value, Kind.PERMUTATION, axes=site.axes)
            if not isinstance(region, Region):
                remarks.append(blocked(site.value, str(region), region))
            elif (stopped := can_repeat(graph, region)) is not None:
                remarks.append(blocked(site.value, str(stopped), stopped))
            elif sentence := tie_in_the_way(graph, region):
                remarks.append(missed(site.value, sentence))
            else:
                remarks.append(self._split(graph, site, region, seen[site.value.name].absmax))
        return remarks

    def _split(self, graph: Graph, site: Site, region: Region, peak: torch.Tensor) -> Remark:
        weights = [graph.value(reader.args[1]).float().abs().amax(0) for reader in site.readers]
        product = torch.zeros(region.size)
        places = region.actions[site.value].labels.flatten().long()
        product.scatter_reduce_(0, places, peak * torch.stack(weights).amax(0), "amax")
        room = int(region.size * (1 + self.share)) // self.multiple * self.multiple
        copies = fitted(product, room)
        gain = float(product.max() / (product / copies).max().clamp(min=1e-30))
        if gain < LEAST_GAIN:
            return missed(site.value, f"left as it is: {room} channels gain only {gain:.2g} times")
        repeat(graph, region, copies)
        text = f"{region.size} channels to {int(copies.sum())}, the greatest {gain:.2g} times less"
        return applied(site.value, text, gain=gain)


def fitted(product: torch.Tensor, room: int) -> torch.Tensor:
    """How many copies there are of each, ``room`` of all, so that the greatest part is least.

    Args:
        product: ``[n]``, not negative.
        room: Where it is less than n, there is one of each.
    """
    low, high = 0.0, float(product.max())
    for _ in range(64):
        middle = (low + high) / 2
        fits = middle > 0 and float(torch.ceil(product / middle).clamp(min=1).sum()) <= room
        low, high = (low, middle) if fits else (middle, high)
    return torch.ceil(product / max(high, 1e-30)).clamp(min=1).long()
