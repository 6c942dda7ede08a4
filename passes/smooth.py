"""Shift and scale the inputs of contractions so that they quantize well: OS+ (A48, F1.1) and SmoothQuant (F1.3).

    x' = (x - z) / s,   W' = W diag(s),   c' = c + W z           so  W' x' + c' = W x + c

z and s are taken up by what makes x and by what reads it, wherever the graph lets them: a norm's weight and bias, a
linear map through a gated product or the heads of an attention, tied over grouped queries. A reader that stops them
(the shortcut of a post-LN block) gets the original back, and where what makes x stops them (a GELU) an op is
inserted, each at the cost of one pointwise op, and only where that is allowed. Exact: this pass quantizes nothing.

The statistic of a channel j is its range over the calibration data and the greatest weight that reads it:

    z[j] = (max x[j] + min x[j]) / 2
    threshold:  s[j] = max(1, |x[j] - z[j]| / t)                 one t for the site (OS+)
    power:      s[j] = max |x[j] - z[j]|^a / max |W[:, j]|^(1-a)    one a for the site (SmoothQuant)

and the objective, by which t or a is searched at each site, is the error of what reads it under quantization,
``|Q(x') Q(W')' - x W'|^2`` over a sample of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ..ir import Graph, Node
from ..ir.gauge import Blocked, Region, Site, apply, inputs_of_contractions, ties_broken, transport
from ..ir.laws import Kind
from .base import Context, Pass, Remark, Stage, applied, missed
from .calibration import Observation, observe
from .rounding import scales as weight_scales


@dataclass(frozen=True)
class Smooth(Pass):
    """Shift and scale every site where it helps.

    Args:
        shift: Whether to shift.
        rule: How scales follow from ranges; with ``None`` there is a shift alone.
        grid: The values of t (as a part of the greatest magnitude) or of a to try; one value is no search.
        activations: How activations will be quantized, for the objective.
        insert: Whether ops may be inserted, each counted as a missed fold.
        untie: Whether a tied parameter may be stored twice.
    """

    shift: bool = True
    rule: Literal["threshold", "power"] | None = "power"
    grid: tuple[float, ...] = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
    activations: Literal["static", "dynamic", "dynamic-tensor"] = "static"
    insert: bool = True
    untie: bool = False
    stage: ClassVar[Stage] = Stage.GAUGE

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        # A grouped convolution's channels have weight scales of their own, so nothing is to be gained.
        found = [site for site in inputs_of_contractions(graph) if not any(map(_grouped, site.readers))]
        axes = {site.value.name: site.axis for site in found}
        seen = observe(graph, context, axes, self.name)
        remarks: list[Remark] = []
        for site in context.progress(found, f"{self.name}: searching"):
            value = site.value
            worker = _SiteWorker(self, graph, site, seen)
            if self.shift:
                remarks.append(worker.shift())
            if self.rule is not None:
                remarks.append(worker.scale())
            assert value.name in seen
        return remarks


def _grouped(reader: Node) -> bool:
    return reader.attrs.get("groups", 1) != 1


class _SiteWorker:
    """One site's shift and scale."""

    def __init__(
        self, options: Smooth, graph: Graph, site: Site, seen: Mapping[str, Observation]
    ) -> None:
        self.options, self.graph, self.site, self.seen = options, graph, site, seen
        self.observation = seen[site.value.name]

    @property
    def value(self) -> Node:
        """What the readers read now."""
        return self.site.readers[0].args[0]

    def region(self, kind: Kind) -> Region | Blocked | str:
        insert = self.options.insert
        axes = (self.site.axis,)
        region = transport(self.graph, self.value, kind, axes=axes)
        if isinstance(region, Blocked) and insert:
            region = transport(self.graph, self.value, kind, axes=axes, restore=True, insert=True)
        if isinstance(region, Region) and not self.options.untie:
            if broken := ties_broken(self.graph, region):
                names = ", ".join(tie.param for tie in broken)
                return f"it would break the tie of {names}, at a cost of {sum(t.bytes for t in broken):,} bytes"
        return region

    def shift(self) -> Remark:
        region = self.region(Kind.SHIFT)
        if not isinstance(region, Region):
            return missed(self.site.value, f"not shifted: {region}")
        low = tied(self.observation.low, region, "amin")
        high = tied(self.observation.high, region, "amax")
        z = torch.where(region.fixed, 0.0, (low + high) / 2)
        self.fold(region, z)
        return applied(self.site.value, f"shifted, {describe(region)}")

    def scale(self) -> Remark:
        region = self.region(Kind.SCALE)
        if not isinstance(region, Region):
            return missed(self.site.value, f"not scaled: {region}")
        best, best_choice, best_scale = self.error(torch.ones(region.size)), None, None
        base = best
        for choice, s in self.candidates(region):
            error = self.error(s)
            if error < best:
                best, best_choice, best_scale = error, choice, s
        if best_scale is None:
            return missed(self.site.value, "not scaled: no candidate lowers the error of its readers")
        self.fold(region, best_scale)
        gain = f"error of its readers {base**0.5:.3g} to {best**0.5:.3g}"
        return applied(
            self.site.value, f"scaled with {self.options.rule} {best_choice:.3g}, {gain}, {describe(region)}"
        )

    def candidates(self, region: Region) -> Iterator[tuple[float, torch.Tensor]]:
        """The scales of each choice on the grid, equal where the graph ties channels."""
        peak = tied(self.observation.absmax, region, "amax").clamp(min=1e-5)
        weight = tied(self.columns(), region, "amax").clamp(min=1e-5)
        for choice in self.options.grid:
            if self.options.rule == "threshold":
                s = torch.clamp(peak / (choice * peak.max()), min=1.0)
            else:
                s = peak**choice / weight ** (1 - choice)
                s = s / torch.exp(torch.log(s).mean())  # the mean is no business of a channel's
            yield choice, torch.where(region.fixed, 1.0, s)

    def columns(self) -> torch.Tensor:
        """The greatest weight that reads each channel, ``[n]``."""
        peaks = [matrix(self.graph, reader, self.site).abs().amax(0) for reader in self.site.readers]
        return torch.stack(peaks).amax(0)

    def error(self, s: torch.Tensor) -> float:
        """The mean squared error of what the readers make of a sample, relative to its power."""
        rows = self.observation.rows
        scaled = fake_quantize(rows / s, self.options.activations)
        wrong, power = 0.0, 0.0
        for reader in self.site.readers:
            weight = matrix(self.graph, reader, self.site)  # (O, n)
            wanted = rows @ weight.T
            smoothed = weight * s
            step = weight_scales(smoothed)
            found = scaled @ (torch.round(smoothed / step) * step).T
            wrong += float((found - wanted).square().mean())
            power += float(wanted.square().mean())
        return wrong / max(power, 1e-30)

    def fold(self, region: Region, element: torch.Tensor) -> None:
        apply(self.graph, region, element.double())
        observed = self.observation
        if region.kind is Kind.SHIFT:
            observed.low, observed.high = observed.low - element, observed.high - element
            observed.samples = [rows - element for rows in observed.samples]
        else:
            observed.low, observed.high = observed.low / element, observed.high / element
            observed.samples = [rows / element for rows in observed.samples]


def tied(statistic: torch.Tensor, region: Region, reduce: str) -> torch.Tensor:
    """A statistic of each channel, made the same for channels that must be treated alike."""
    groups = region.groups
    start = torch.full_like(statistic, float("-inf") if reduce == "amax" else float("inf"))
    return start.scatter_reduce(0, groups, statistic, reduce)[groups]


def matrix(graph: Graph, reader: Node, site: Site) -> torch.Tensor:
    """A reader's weights as ``[O, n]`` in float32; of a convolution, one row for each kernel position."""
    weight = graph.value(reader.args[1]).float()
    return weight if site.axis == -1 else weight.movedim(1, -1).reshape(-1, weight.shape[1])


def fake_quantize(rows: torch.Tensor, mode: str) -> torch.Tensor:
    """Rows as eight bits give them back: simulated, for the search alone."""
    if mode == "dynamic":
        step = (rows.abs().amax(1, keepdim=True) / 127).clamp(min=1e-12)
        return torch.round(rows / step) * step
    low, high = rows.min().clamp(max=0), rows.max().clamp(min=0)
    step = ((high - low) / 255).clamp(min=1e-12)
    zero = torch.round(-low / step)
    return (torch.clamp(torch.round(rows / step) + zero, 0, 255) - zero) * step


def describe(region: Region) -> str:
    """Where a group element went."""
    text = f"into {len(region.parameters)} parameters"
    if region.restores:
        users = ", ".join(restore.user.name for restore in region.restores)
        text += f"; the original is restored for {users}"
    if region.inserted:
        text += f"; an op is inserted, since {region.insertion_cause} stops it"
    return text
