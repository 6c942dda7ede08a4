"""Shift and scale the inputs of contractions so that they quantize well: OS+ (A48, F1.1),
SmoothQuant (F1.3), AWQ (A02, F1.4), RepQuant (F3), pre-shifted exponents (F4.3).

    x' = (x - z) / s,   W' = W diag(s),   c' = c + W z           so  W' x' + c' = W x + c

z and s are taken up by what makes x and by what reads it, wherever the graph lets them: a norm's
weight and bias, a linear map through a gated product or the heads of an attention, tied over
grouped queries. A reader that stops them (the shortcut of a post-LN block) gets the original back,
and where what makes x stops them (a GELU) an op is inserted, each at the cost of one pointwise op,
and only where that is allowed; a table that an embedding shares with a head takes a scale up so,
with the original back behind the embedding. Exact: this pass quantizes nothing.

The statistic of a channel j is its range over the calibration data and the greatest weight that
reads it:

    z[j] = (max x[j] + min x[j]) / 2
    threshold:  s[j] = max(1, |x[j] - z[j]| / t)                 one t for the site (OS+)
    power:      s[j] = max |x[j] - z[j]|^a / max |W[:, j]|^(1-a)    one a for the site (SmoothQuant)
    mean:       s[j] = mean |x[j]|^a                                one a for the site (AWQ)
    range:      s[j], z[j] so that all channels have one range       (RepQuant)
    exponent:   s[j] = 2^k, the whole power next to a range of its own, at most e of them apart

and the objective, by which t or a is searched at each site, is the error of what reads it under
quantization, ``|Q(x') Q(W')' - x W'|^2`` over a sample of rows; weights stay as they are otherwise.
The rows of some batches are judged by z, s and a range that the other batches tell: on what they
were made of, scales that bring every channel to one peak look best, and what comes later is clipped
in many channels at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias, get_args

import torch

from ...ir import Graph, InputError, Node
from ...ir.gauge import (
    Blocked,
    Region,
    Site,
    apply,
    inputs_of_contractions,
    transport,
    with_lookups,
)
from ...ir.laws import Kind
from ..base import Context, Remark, Stage, applied, blocked, missed
from ..calibration import Observation, as_matrix, evenly, observe
from ..journal import Journal
from ..options import (
    AMOUNT,
    BITS,
    COUNT,
    SHARE,
    Range,
    check_kinds,
    check_known,
    check_numbers,
    check_several,
)
from ..quantization.integer_results import CONVOLUTIONS, IntegerResults
from ..quantization.simulated import fake_quantize, fake_quantize_weights
from ..quantization.values import Activations, format_of
from ..sites import Asked, SitePass
from ..ties import tie_in_the_way

Rule: TypeAlias = Literal["threshold", "power", "mean", "range", "exponent"]
# What each rule's t, a or e may be.
GRIDS: dict[Rule | None, Range] = {
    "threshold": Range(0, 1, above=True),
    "power": SHARE,
    "mean": SHARE,
    "exponent": AMOUNT,
}

FEWEST = 8  # rows, below which ranges are chance
FLOOR = 1.0  # of the median range of the channels
OUTPUTS = 4096  # of a reader, beyond which the error of a part of them tells as much
FOLDS = 4  # of the batches, each judged by the others


@dataclass(frozen=True)
class Smooth(SitePass):
    """Shift and scale every site where it helps.

    Args:
        shift: Whether to shift; ``folded``: only where parameters take it up.
        rule: How scales follow from ranges; with ``None`` there is a shift alone.
        grid: The values of t (as a part of the greatest magnitude), of a or of e to try; one value
            is no search.
        activations: How activations will be quantized, for the objective; ``None``: not at all.
        bits: Of the weights, for the objective.
        group: How many neighbouring weights will share a scale; all of a row where not given.
        insert: Whether ops may be inserted, each counted as a missed fold.
        untie: Whether a tied parameter may be stored twice.
    """

    shift: bool | Literal["folded"] = False
    rule: Rule | None = "power"
    grid: tuple[float, ...] = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
    activations: Activations | None = "static"
    bits: int = 8
    group: int | None = None
    insert: bool = True
    untie: bool = False
    what: ClassVar[str] = "what contractions with weights read, or such a contraction"
    stage: ClassVar[Stage] = Stage.GAUGE

    def __post_init__(self) -> None:
        check_known([self.shift], (False, True, "folded"), "shift")
        check_known([self.rule], (*get_args(Rule), None), "rule")
        check_several(self.grid, "grid", 0.5)
        for choice in self.grid:
            if choice not in (allowed := GRIDS.get(self.rule, AMOUNT)):
                raise InputError(
                    f"{choice!r} in grid is none that the rule {self.rule!r} takes",
                    do=f"grid: {allowed}, each",
                )
        format_of(self.activations)  # raises where there is no such format
        check_numbers(self, bits=BITS, group=COUNT | None)
        check_kinds(self, insert=bool, untie=bool)

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        results = IntegerResults.find(graph, context, self.activations or "none")
        # A grouped convolution's channels have weight scales of their own, so nothing is to be
        # gained.
        found = [
            site
            for found in inputs_of_contractions(graph)
            for site in [results.readers_of(found)]
            if site.readers
            and not any(map(_grouped, site.readers))
            and asked(site.value, *site.readers)
        ]
        axes = {site.value.name: site.axis for site in found}
        seen = observe(graph, context, axes, self.name)
        remarks: list[Remark] = []
        for site in context.progress(found, f"{self.name}: searching"):
            # An op between two convolutions on codes would cost more than the codes gain.
            fused = context.closed_convolutions and site.readers[0].op in CONVOLUTIONS
            options = replace(self, insert=self.insert and not fused)
            search = SiteSearch(options, graph, site, seen[site.value.name])
            remarks += search.run(context.journal)
        return remarks


def os_plus(activations: Activations = "static", *, insert: bool = True) -> Smooth:
    """Outlier Suppression+ (A48): shift, and scale by one threshold a site."""
    grid = tuple(i / 20 for i in range(1, 21))
    return Smooth(True, "threshold", grid, activations, insert=insert)


def smooth_quant(alpha: float = 0.5, activations: Activations = "static") -> Smooth:
    """SmoothQuant (F1.3): one exponent for every site, no search, nothing inserted."""
    return Smooth(False, "power", (alpha,), activations, insert=False)


def awq(bits: int = 4, group: int | None = 128) -> Smooth:
    """AWQ's scales (A02, F1.4), for weights of a few bits; weights stay in floating point here."""
    grid = tuple(i / 20 for i in range(1, 20))
    return Smooth(False, "mean", grid, None, bits, group)


def repquant() -> Smooth:
    """RepQuant's reparameterisation (F3): one range for all channels, where that is free."""
    return Smooth(True, "range", (1.0,), insert=False)


def pre_shift(bits: int = 2) -> Smooth:
    """Exponents of channels moved into the weights (F4.3), as far apart as so many bits of an
    exponent tell: exact in floating point too."""
    return Smooth(False, "exponent", (2.0**bits - 1,), insert=False)


def _grouped(reader: Node) -> bool:
    return reader.attrs.get("groups", 1) != 1


@dataclass(frozen=True)
class Trial:
    """What shifts and scales are judged by.

    Attributes:
        seen: What they, and ranges, are made of.
        rows: What is quantized, ``[k, n]``.
        wanted: What each reader should give.
    """

    seen: Observation
    rows: torch.Tensor
    wanted: list[torch.Tensor]


class SiteSearch:
    """The search for one site's shift and scale."""

    def __init__(self, options: Smooth, graph: Graph, site: Site, seen: Observation) -> None:
        self.options, self.graph, self.site, self.seen = options, graph, site, seen
        weights = [as_matrix(graph.value(r.args[1]).float()) for r in site.readers]  # [(O, n)]
        self.columns = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)
        self.weights = [evenly(weight, OUTPUTS) for weight in weights]
        power = sum(float((seen.rows @ weight.T).square().mean()) for weight in self.weights)
        self.power = max(power, 1e-30)
        self.remarks: list[Remark] = []

    def run(self, journal: Journal) -> list[Remark]:
        """Try every shift with every scale, and fold the best pair that beats doing nothing."""
        if self.seen.count < FEWEST:
            text = f"left as it is: {self.seen.count} rows of calibration data tell no ranges"
            return [missed(self.site.value, text)]
        shift = self.region(Kind.SHIFT) if self.options.shift else None
        scale = self.region(Kind.SCALE) if self.options.rule is not None else None
        if shift is None and scale is None:
            return self.remarks
        name = self.site.value.name
        base, best, choice = journal.once(name, lambda: self.best(shift, scale))
        if choice is None:
            text = "left as it is: nothing lowers the error of its readers"
            return [*self.remarks, missed(self.site.value, text)]
        z, s, name = choice
        done = [self.fold(Kind.SHIFT, z)] if bool((z != 0).any()) else []
        done += [f"{self.fold(Kind.SCALE, s)} ({name})"] if name else []
        gain = f"error of its readers {base**0.5:.2g} to {best**0.5:.2g}"
        data = {"error_before": base**0.5, "error_after": best**0.5}
        return [*self.remarks, applied(self.site.value, f"{', '.join(done)}; {gain}", **data)]

    def best(
        self, shift: Region | None, scale: Region | None
    ) -> tuple[float, float, tuple[torch.Tensor, torch.Tensor, str] | None]:
        """The error as it is, the least one, and the shift and scale with a name that give it."""
        trials = [
            Trial(others, part.rows, [part.rows @ weight.T for weight in self.weights])
            for others, part in self.seen.folds(FOLDS)
        ]
        if any(len(trial.rows) < FEWEST for trial in trials):
            trials = [
                Trial(self.seen, self.seen.rows, [self.seen.rows @ w.T for w in self.weights])
            ]
        totals: list[float] = []
        for trial in trials:
            errors = [
                self.error(trial, z, s) for z, s, _ in self.candidates(trial.seen, shift, scale)
            ]
            totals = [a + b for a, b in zip(totals or [0.0] * len(errors), errors, strict=True)]
        means = [total / len(trials) for total in totals]
        place = min(range(len(means)), key=means.__getitem__)
        choice = list(self.candidates(self.seen, shift, scale))[place] if place else None
        return means[0], means[place], choice

    @property
    def value(self) -> Node:
        """What the readers read now."""
        return self.site.readers[0].args[0]

    def region(self, kind: Kind) -> Region | None:
        """Where a group element can go; leaves a remark where there is no way."""
        axes = (self.site.axis,)
        region = transport(self.graph, self.value, kind, axes=axes)
        if isinstance(region, Blocked) and self.options.insert:
            by_op = kind is not Kind.SHIFT or self.options.shift != "folded"
            region = transport(self.graph, self.value, kind, axes=axes, restore=True, insert=by_op)
        if isinstance(region, Blocked):
            self.remarks.append(blocked(self.site.value, f"no {kind.value}: {region}", region))
            return None
        if self.options.insert and not self.options.untie:
            region = with_lookups(self.graph, region)
        if sentence := tie_in_the_way(self.graph, region, self.options.untie):
            self.remarks.append(missed(self.site.value, f"no {kind.value}: {sentence}"))
            return None
        return region

    def candidates(
        self, seen: Observation, shift: Region | None, scale: Region | None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, str]]:
        """Shifts and scales to try, equal where the graph ties channels; first to do nothing."""
        zero, one = torch.zeros(self.site.size), torch.ones(self.site.size)
        yield zero, one, ""
        if self.options.rule == "range":
            if scale is not None:
                yield _one_range(seen, shift, scale)
            return
        if scale is not None:
            yield from ((zero, s, name) for name, s in self.scales(seen, scale, zero))
        if shift is not None:
            z = _middle(seen, shift)
            yield z, one, ""
            if scale is not None:
                yield from ((z, s, name) for name, s in self.scales(seen, scale, z))

    def scales(
        self, seen: Observation, region: Region, z: torch.Tensor
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """The scales of each choice on the grid."""
        peak = torch.maximum((seen.low - z).abs(), (seen.high - z).abs())
        peak = tied(peak, region, "amax")
        # A channel that hardly moved on this data may move on other data, and its scale decides
        # nothing: the range is that of the large ones.
        peak = peak.clamp(min=max(FLOOR * float(peak.median()), 1e-5))
        columns = tied(self.columns, region, "amax").clamp(min=1e-5)
        for choice in self.options.grid:
            match self.options.rule:
                case "threshold":
                    s = torch.clamp(peak / (choice * peak.max()), min=1.0)
                case "exponent":
                    powers = torch.round(torch.log2(peak / peak.min()))
                    powers = powers.clamp(min=float(powers.max()) - int(choice))
                    s = torch.exp2(powers - powers.min())
                case "mean":
                    mean = tied((seen.rows - z).abs().mean(0), region, "amax").clamp(min=1e-4)
                    s = mean**choice
                    s = s / (s.max() * s.min()).sqrt()
                case _:
                    s = peak**choice / columns ** (1 - choice)
                    s = s / torch.exp(torch.log(s).mean())  # the mean is no business of a channel's
            # Powers of equal numbers may differ in the last digit, by where in a vector they are.
            s = torch.where(region.fixed, 1.0, s)[region.groups]
            yield f"{self.options.rule} {choice:.3g}", s

    def error(self, trial: Trial, z: torch.Tensor, s: torch.Tensor) -> float:
        """The variance of the readers' error over a trial's rows, relative to their power.

        The mean of the error is left out: the bias takes it up.
        """
        limits = ((trial.seen.low - z) / s).min(), ((trial.seen.high - z) / s).max()
        rows = fake_quantize((trial.rows - z) / s, limits, self.options.activations)
        wrong = 0.0
        for weight, wanted in zip(self.weights, trial.wanted, strict=True):
            weights = fake_quantize_weights(weight * s, self.options.bits, self.options.group)
            gap = rows @ weights.T - wanted
            wrong += float((gap - gap.mean(0)).square().mean())
        return wrong / self.power

    def fold(self, kind: Kind, element: torch.Tensor) -> str:
        """Apply an element; says where it went."""
        region = self.region(kind)
        assert region is not None, "the region was there before the search"
        apply(self.graph, region, element.double())
        return describe(region)


def _middle(seen: Observation, region: Region) -> torch.Tensor:
    """The middle of each channel's range, equal where the graph ties channels."""
    low, high = tied(seen.low, region, "amin"), tied(seen.high, region, "amax")
    return torch.where(region.fixed, 0.0, (low + high) / 2)


def _one_range(
    seen: Observation, shift: Region | None, scale: Region
) -> tuple[torch.Tensor, torch.Tensor, str]:
    """What gives every channel the range of the mean one, about a middle of its own or 0."""
    low, high = (seen.low, seen.high) if shift is not None else (-seen.absmax, seen.absmax)
    low, high = tied(low, scale, "amin"), tied(high, scale, "amax")
    step = (high - low).clamp(min=1e-5)
    s = torch.where(scale.fixed, 1.0, step / step.mean())
    if shift is None:
        return torch.zeros_like(s), s, "one range"
    z = low - s * (low / s).mean()
    return torch.where(shift.fixed, 0.0, tied(z, shift, "amax")), s, "one range"


def tied(statistic: torch.Tensor, region: Region, reduce: str) -> torch.Tensor:
    """A statistic of each channel, made the same for channels that must be treated alike."""
    groups = region.groups
    start = torch.full_like(statistic, float("-inf") if reduce == "amax" else float("inf"))
    return start.scatter_reduce(0, groups, statistic, reduce)[groups]


def describe(region: Region) -> str:
    """Where a group element went."""
    text = f"{region.kind.value} in {len(region.parameters)} parameters"
    if region.restores:
        users = ", ".join(restore.user.name for restore in region.restores)
        text += f", undone for {users}"
    return text + ", by an op of its own" * region.inserted
