"""Learn scales, and shifts, of all sites at once by the error of the outputs (MobileQuant, A09;
F7.1, F1, F8.3).

    min over z, s  of  sum_t |f(x_t; Q(W'), Q(x')) - f(x_t; W)|^2 / |f(x_t; W)|^2,  x' = (x - z) / s

f is the whole graph, W' what its weights become when every site's z and s are folded into them, and
Q quantization as it will be: weights by output channel, what contractions read by a static range,
which follows from s and the calibration data, or token by token. Rounding counts as the identity
where gradients are taken. AdamW minimises over log s, one number for all channels that the graph
ties (pairs of rotary embeddings, the queries that share a key); z is a part of its channel's range.

Sites are those that take an element for free; ``Smooth``, run before, inserts ops where they are
wanted, and what it found is where learning starts. Queries and keys take scales that undo each
other, which is of use only where attention is quantized too. Exact: nothing is quantized here. The
best step by the error on calibration batches that learning does not see is folded in, if it beats
the start; weights' clip bounds, which the method learns too, are no business of an equal function.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from ...ir import Graph, Node, astype
from ...ir.gauge import (
    Blocked,
    Region,
    Site,
    apply,
    attention_pairs,
    folded,
    inputs_of_contractions,
    separate,
    ties_broken,
    transport,
)
from ...ir.interpret import execute
from ...ir.laws import Kind
from ..base import Context, Pass, Remark, Stage, applied, decided, missed
from ..calibration import padding_mask
from ..fitting import damage, orders, split
from ..options import BITS, COUNT, POSITIVE, check_kinds, check_numbers
from ..quantization.simulated import Simulation
from ..quantization.values import Activations, format_of
from .smooth import tied

LEAST_SCALE = 1e-2  # as the source has it


@dataclass(frozen=True)
class LearnScales(Pass):
    """Learn every site's scale, end to end.

    Args:
        shift: Whether shifts are learned too.
        activations: How activations will be quantized; ``None``: not at all.
        bits: Of the weights.
        group: How many neighbouring weights will share a scale; all of a row where not given.
        attention: Whether what attention multiplies will be quantized too.
        correct_bias: Whether biases will take up the mean error.
        steps: How many batches are learned on, one after the other in a random order.
        rate: The learning rate, of log s and of z as a part of its channel's range. The source's
            is 1e-3, for thousands of steps.
    """

    shift: bool = False
    activations: Activations | None = "static"
    bits: int = 8
    group: int | None = None
    attention: bool = False
    correct_bias: bool = True
    steps: int = 100
    rate: float = 1e-2
    stage: ClassVar[Stage] = Stage.GAUGE

    def __post_init__(self) -> None:
        format_of(self.activations)  # raises where there is no such format
        check_numbers(self, bits=BITS, group=COUNT | None, steps=COUNT, rate=POSITIVE)
        check_kinds(self, shift=bool, attention=bool, correct_bias=bool)

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        batches = context.need_calibration(self.name)
        seen, judged = split(len(batches))
        learned_on, held_out = [batches[i] for i in seen], [batches[i] for i in judged]
        if len(batches) == 1:
            text = "left as it is: of one batch of calibration data none can be held out"
            return [missed(graph.output, text)]
        model = astype(graph, torch.float32)
        simulation = Simulation.of(
            model,
            replace(context, calibration=learned_on),
            self.name,
            activations=self.activations,
            bits=self.bits,
            group=self.group,
            attention=self.attention,
        )
        remarks: list[Remark] = []
        choices = list(_choices(self, simulation, model, remarks))
        if not choices:
            return [*remarks, missed(graph.output, "left as it is: no site takes an element")]
        learner = _Learner(self, model, simulation, choices, context)
        before, after, step, found = context.journal.once(
            "learned", lambda: learner.run(learned_on, held_out)
        )
        for choice, learned in zip(choices, found, strict=True):
            choice.learned = learned
        if not after < before:
            text = "left as it is: learning does not lower the error on held-out data"
            return [*remarks, missed(graph.output, f"{text}, {before:.3g}", error_before=before)]
        for choice in choices:
            remarks.append(choice.fold(graph))
        text = f"error on held-out data {before:.3g} to {after:.3g}, in {step} steps"
        data = {"error_before": before, "error_after": after, "steps": step}
        return [*remarks, decided(graph, text, **data)]


@dataclass(eq=False)
class _Choice:
    """An element to be chosen, as a function of what is learned."""

    site: Site
    region: Region
    groups: torch.Tensor
    fixed: torch.Tensor
    unit: torch.Tensor  # of a shift
    learned: torch.Tensor  # [n], of which the first of each group counts

    def element(self) -> torch.Tensor:
        """The element, ``[n]``, equal where the graph ties channels."""
        if self.region.kind is Kind.SHIFT:
            return torch.where(self.fixed, 0.0, (self.learned * self.unit)[self.groups])
        scale = self.learned.exp().clamp(min=LEAST_SCALE)
        return torch.where(self.fixed, 1.0, scale[self.groups])

    def fold(self, graph: Graph) -> Remark:
        """Apply the element to the graph that was copied to learn on."""
        kind, site = self.region.kind, replace(self.site, value=graph[self.site.value.name])
        region = _region(graph, site, kind)
        assert isinstance(region, Region), "the region was there before learning"
        element = self.element().detach().double()
        apply(graph, region, element)
        span = f"{float(element.min()):.2g} to {float(element.max()):.2g}"
        return applied(
            site.value, f"{kind.value}s of {span} in {len(region.parameters)} parameters"
        )


def _choices(
    options: LearnScales, simulation: Simulation, graph: Graph, remarks: list[Remark]
) -> Iterator[_Choice]:
    """What there is to choose; each region's parameters are made its own in the graph."""
    sites = [site for site in inputs_of_contractions(graph) if site.value in simulation.values]
    pairs = list(attention_pairs(graph)) if options.attention else []
    kinds = [(Kind.SHIFT, sites)] if options.shift else []
    for kind, among in [*kinds, (Kind.SCALE, [*sites, *pairs])]:
        covered: set[Node] = set()
        for site in among:
            if site.value in covered:  # the values of an attention, by its result
                continue
            region = _region(graph, site, kind)
            if isinstance(region, str):
                remarks.append(missed(site.value, f"no {kind.value}: {region}"))
                continue
            covered |= {v for v, action in region.actions.items() if int(action.labels.min()) >= 0}
            separate(graph, region)
            seen = simulation.seen[site.value]
            shift = kind is Kind.SHIFT
            unit = tied(seen.high - seen.low, region, "amax") if shift else torch.ones(region.size)
            learned = torch.zeros(region.size, requires_grad=True)
            yield _Choice(site, region, region.groups, region.fixed, unit, learned)


def _region(graph: Graph, site: Site, kind: Kind) -> Region | str:
    """Where an element goes, or why it is not to be taken.

    What would break a tie stays as it is, if others can take the action up: a table of rotary
    embeddings, which all layers read, for the keys' own weights.
    """
    region = transport(graph, site.value, kind, axes=site.axes)
    if isinstance(region, Region) and (broken := ties_broken(graph, region)):
        keep = [graph.params[tie.param] for tie in broken]
        region = transport(graph, site.value, kind, axes=site.axes, keep=keep)
        if isinstance(region, Blocked) or ties_broken(graph, region):
            return f"it would break the tie of {', '.join(tie.param for tie in broken)}"
    if isinstance(region, Blocked):
        return str(region)
    return "the graph holds every channel fixed" if bool(region.fixed.all()) else region


@dataclass
class _Learner:
    """The graph with what is chosen, exact and as it will be once quantized."""

    options: LearnScales
    graph: Graph
    simulation: Simulation
    choices: list[_Choice]
    context: Context

    def __post_init__(self) -> None:
        self.frozen = {node: self.graph.value(node).detach() for node in self.graph.params.values()}

    def run(
        self, learned_on: Sequence[Sequence[Any]], held_out: Sequence[Sequence[Any]]
    ) -> tuple[float, float, int, list[torch.Tensor]]:
        """Learn: the error at the start, the least one, the step that it was found at, and what was
        learned by then."""
        options, choices = self.options, self.choices
        learned = [choice.learned for choice in choices]
        optimizer = torch.optim.AdamW(learned, options.rate, weight_decay=0.0)
        first = least = self.error(held_out)
        if not first > 0:  # no output is a number that quantization changes
            return first, first, 0, [part.detach() for part in learned]
        best, best_step = [part.detach().clone() for part in learned], 0
        order = orders(range(len(learned_on)), self.context.generator())
        name = f"{options.name}: learning"
        for step in self.context.progress(range(1, options.steps + 1), name):
            optimizer.zero_grad()
            with torch.enable_grad():
                self.loss(learned_on[next(order)]).backward()
            optimizer.step()
            if step % len(learned_on) == 0 or step == options.steps:
                error = self.error(held_out)
                if error < least:
                    least, best_step = error, step
                    best = [part.detach().clone() for part in learned]
        return first, least, best_step, best

    def loss(self, batch: Sequence[Any]) -> torch.Tensor:
        """The outputs' squared error relative to their power."""
        frozen = {node.name: value for node, value in self.frozen.items()}
        means: dict[Node, torch.Tensor] = {}
        mask = padding_mask(batch)
        with torch.no_grad():
            wanted = execute(
                self.graph, batch, params=frozen, tap=self.simulation.watch(means, mask)
            )
        chosen = [(choice.region, choice.element()) for choice in self.choices]
        values = dict(self.frozen)
        for region, element in chosen:
            values |= folded(region, element, values.__getitem__)
        params = {node.name: value for node, value in values.items()}
        read = self.simulation.reading(chosen)
        tap = self.simulation.correct(means, chosen, mask) if self.options.correct_bias else None
        found = execute(self.graph, batch, params=params, read=read, tap=tap)
        return _relative_error(found, wanted, mask)

    def error(self, batches: Sequence[Sequence[Any]]) -> float:
        """The relative L2 error over several batches."""
        with torch.no_grad():
            errors = [float(self.loss(batch)) for batch in batches]
        return (sum(errors) / len(errors)) ** 0.5


def _relative_error(
    found: Sequence[Any], wanted: Sequence[Any], mask: torch.Tensor | None
) -> torch.Tensor:
    """The squared error of the outputs that are real numbers, each relative to its power."""
    total = torch.zeros(())
    for mine, true in zip(found, wanted, strict=True):
        if isinstance(true, torch.Tensor) and true.is_floating_point() and true.dim():
            total = total + damage(mine, true, mask, "relative")
    return total
