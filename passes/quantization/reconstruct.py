"""Quantize by reconstruction: codes, scales and ranges are learned, block after block, so that each
block gives what it gave before (F7.3, F7.4).

    min over θ of |g(x'; Q_θ(W)) - g(x; W)|^2 / |g(x; W)|^2

g is a block, which the graph itself shows (``ir.sections``), x what flows into it and x' the same
from the blocks that are quantized already. FlexRound (A85), Block-AP of EfficientQAT (A76) and
AdaRound, which the first is compared with, differ in what is learned (``learned_rounding``); all
start from what ``Quantize`` would store, and end in the same stored codes. E2E-QP of EfficientQAT
then learns the scales of all blocks at once by the outputs of the whole graph, codes fixed.
Approximate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import torch

from ...ir import Graph, InputError, Node
from ...ir.formats.scales import straight
from ...ir.gauge import weighted
from ...ir.interpret import by_input, compute
from ...ir.sections import Cut, Section, sections
from ..base import Remark
from ..fitting import Computed, Fitter, Given, Learnable, Samples, changed, reading, split
from ..options import check_kinds, check_known
from ..shelf import Mapped
from .learned_rounding import AdaRound, Method, Range, Rates, Rounding, Steps, Straight, Vector
from .quantize import Quantize
from .rounder import Decision, Rounder
from .streams import Flow, Values, Visit, run_streams
from .values import Static
from .weights import Channelwise, Stored

NORMS = ("layer_norm", "rms_norm", "crms_norm")
RATES: dict[Method, Rates] = {
    "steps": Rates(steps=1e-3, zeros=1e-2),
    "block-ap": Rates(weights=1e-2, steps=1e-3, zeros=1e-2),
    "flexround": Rates(weights=5e-3, steps=1e-3),
    "adaround": Rates(weights=3e-2),
}


@dataclass(frozen=True)
class Reconstruct(Quantize):
    """Quantize, and learn what comes of it; what ``Quantize`` takes says where to start.

    Args:
        method: What of the codes is learned.
        cut: What is reconstructed at once.
        rates: Learning rates; those of the method where not given.
        fitter: How each section is learned.
        end_to_end: How the scales of all are learned in the end, if they are.
        end_rates: Their learning rates.
    """

    method: Method = "block-ap"
    cut: Cut = "block"
    rates: Rates | None = None
    fitter: Fitter = field(default_factory=Fitter)
    end_to_end: Fitter | None = None
    end_rates: Rates = field(default_factory=lambda: Rates(steps=1e-3))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known([self.method], RATES, "method")
        check_known([self.cut], get_args(Cut), "cut")
        check_kinds(self, rates=Rates | None, fitter=Fitter, end_to_end=Fitter | None)
        check_kinds(self, end_rates=Rates)

    @property
    def _learns(self) -> bool:
        return True

    def _stream(
        self,
        graph: Graph,
        targets: dict[Node, int],
        visit: Visit,
        rounder: Rounder,
        decisions: dict[Node, Decision],
    ) -> list[Remark]:
        if self.low_rank:
            raise InputError(
                "what a product of thin matrices makes up for is not learned",
                do="leave low_rank out, or ask for Quantize",
            )
        narrow = [p for p in graph.params.values() if p.dtype in (torch.float16, torch.bfloat16)]
        if narrow:
            raise InputError(
                "steps as small as learning takes are lost in "
                f"{narrow[0].name}'s {narrow[0].dtype}",
                do="compile model.float(), whose codes are no larger, or ask for Quantize",
            )
        context = rounder.context
        rounder.learned_on, _ = split(len(context.calibration))
        work = _Work(self, graph, rounder, decisions)
        run_streams(
            graph,
            context.calibration,
            targets,
            visit,
            context,
            self.name,
            sections=sections(graph, self.cut),
            finish=work.finish,
        )
        if self.end_to_end is not None:
            work.end_to_end(self.end_to_end)
        for (reader, index), tensor in work.vectors.items():
            graph.give(reader, index, tensor)
        return work.remarks


@dataclass
class _Work:
    """The reconstruction of one section after another.

    Attributes:
        ranged: The values whose ranges have been learned.
        vectors: Parameters of norms that were learned, by their place.
    """

    options: Reconstruct
    graph: Graph
    rounder: Rounder
    decisions: dict[Node, Decision]  # by reader
    remarks: list[Remark] = field(default_factory=list[Remark])
    ranged: set[Decision] = field(default_factory=set[Decision])
    vectors: dict[tuple[Node, int], torch.Tensor] = field(
        default_factory=dict[tuple[Node, int], torch.Tensor]
    )

    @property
    def rates(self) -> Rates:
        return self.options.rates or RATES[self.options.method]

    def finish(self, section: Section, flow: Flow) -> dict[Node, Values] | None:
        """Learn a section, and decide by what was learned."""
        context = self.rounder.context
        learned = list(self._learnables(section))
        params = self._params(section)
        count = len(context.calibration)

        def batches(values: dict[Node, Values]) -> Sequence[dict[Node, Any]]:
            def batch(index: int) -> dict[Node, Any]:
                return {node: of[index] for node, of in values.items()} | params

            return Mapped(batch, count)

        samples = Samples(
            batches(flow.exact), batches(flow.quantized), self.rounder.masks, batches(flow.wanted)
        )
        key, who = f"section-{section.exits[-1].name}", f"{self.options.name}: learning"
        fit = self.options.fitter.fit_once(section, samples, learned, context, who, key)
        self.remarks.append(fit.remark(section.exits[-1], "reconstructed"))
        self.rounder.decision = None  # what it has at hand was before learning
        if not fit.step:
            return None
        self._keep(section, learned)
        exits = changed(section, learned)
        found = {node: flow.shelf.series() for node in exits}
        for given in samples.given:
            with torch.no_grad():
                compute(
                    section.nodes, values := dict(given), keep=exits, read=reading(learned, None)
                )
            for node in exits:
                found[node].append(values[node])
        return dict(found)

    def end_to_end(self, fitter: Fitter) -> None:
        """Learn the scales of all weights by what the graph gives."""
        (section,) = sections(self.graph, "graph")
        inputs = [
            by_input(self.graph, batch) | self._params(section)
            for batch in self.rounder.context.calibration
        ]
        learned = list(self._scales(section))
        samples = Samples(inputs, inputs, self.rounder.masks)
        who = f"{self.options.name}: end to end"
        context = self.rounder.context
        fit = fitter.fit_once(section, samples, learned, context, who, "end-to-end")
        self.remarks.append(fit.remark(section.exits[-1], "reconstructed"))
        self._keep(section, learned)

    # -- what is learned ------------------------------------------------------------------------

    def _params(self, section: Section) -> dict[Node, torch.Tensor]:
        used = dict.fromkeys(used for node in section.nodes for used in node.inputs)
        return {node: self.graph.value(node) for node in used if node.op == "param"}

    def _sites(self, section: Section) -> Iterator[tuple[Decision, tuple[Node, ...]]]:
        """What is quantized in a section: each site with its readers that are there."""
        inside = set(section.nodes)
        for decision in dict.fromkeys(self.decisions.values()):
            readers = tuple(reader for reader in decision.site.readers if reader in inside)
            if readers:
                yield decision, readers

    def _learnables(self, section: Section) -> Iterator[Learnable]:
        yield from self._looked_up(section)
        rates, method = self.rates, self.options.method
        for decision, readers in self._sites(section):
            yield self._seen(decision, readers, rates)
            for sees, stored in self._weights(decision, readers):
                weight = self.graph.value(sees[0][1])
                rounding = self.rounder.rounding
                kept = rounding.of(sees[0][0]).pairs
                pairs = kept and isinstance(stored, Channelwise)
                held = rounding.zeros(sees[0][0]).held
                if method == "adaround":
                    yield AdaRound(sees, weight, stored, rates, pairs=pairs, held=held)
                else:
                    yield Straight(sees, weight, stored, method, rates, pairs=pairs, held=held)
            yield from self._fixed(decision, readers)
        yield from self._vectors(section, rates)

    def _scales(self, section: Section) -> Iterator[Learnable]:
        """The same with codes that stay."""
        rates = self.options.end_rates
        yield from self._looked_up(section)
        for decision, readers in self._sites(section):
            yield self._seen(decision, readers, Rates())
            for sees, stored in self._weights(decision, readers):
                yield Steps(sees, stored, rates)
            yield from self._fixed(decision, readers)
        yield from self._vectors(section, rates)

    def _looked_up(self, section: Section) -> Iterator[Learnable]:
        """Tables that embeddings read."""
        tables = self.rounder.rounding.ahead
        for node in section.nodes:
            if node.op == "embedding" and node.args[0] in tables:
                yield Given([(node, node.args[0])], tables[node.args[0]].value)

    def _seen(self, decision: Decision, readers: Sequence[Node], rates: Rates) -> Learnable:
        """What is seen of a value."""
        value = decision.site.value
        sees = [(reader, value) for reader in readers]
        coding = decision.coding
        if rates.ranges and isinstance(coding, Static) and decision not in self.ranged:
            return Range(sees, coding.scale, coding.zero_point, rates)

        def simulated(found: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                codes = decision.simulate(found.detach())
            return straight(found, codes)

        return Computed(sees, simulated)

    def _weights(
        self, decision: Decision, readers: Sequence[Node]
    ) -> Iterator[tuple[list[tuple[Node, Node]], Stored]]:
        """The weights that were given codes, each with those that read it."""
        found: dict[Node, list[Node]] = {}
        for reader in readers:
            if reader in decision.weights:
                found.setdefault(reader.args[1], []).append(reader)
        for source, users in found.items():
            yield [(user, source) for user in users], decision.weights[users[0]]

    def _fixed(self, decision: Decision, readers: Sequence[Node]) -> Iterator[Learnable]:
        """Weights that have their codes from elsewhere: decided ahead, or quantized before."""
        for reader in readers:
            if reader not in decision.weights:
                yield Given([(reader, reader.args[1])], self.rounder.rounding.read(reader))

    def _vectors(self, section: Section, rates: Rates) -> Iterator[Learnable]:
        """Biases, and the weights and biases of norms, that nobody else reads."""
        corrected: dict[Node, torch.Tensor] = {}
        for decision, _ in self._sites(section):
            corrected |= decision.biases
        for node in section.nodes:
            places = (1, 2) if node.op in NORMS else (2,) if weighted(node) else ()
            for index in places:
                source = node.operand(index)
                if not isinstance(source, Node) or source.op != "param" or len(source.users) > 1:
                    continue
                start = self.vectors.get((node, index), self.graph.value(source))
                tensor = corrected.get(node, start) if index == 2 else start
                yield Vector((node, source), index, tensor, rates.vectors)

    # -- what is made of it ---------------------------------------------------------------------

    def _keep(self, section: Section, learned: Sequence[Learnable]) -> None:
        """Decide by what was learned."""
        for part in learned:
            reader, _ = part.sees[0]
            if isinstance(part, Range):
                decision = self.decisions[reader]
                decision.coding = Static(*part.settled())
                self.ranged.add(decision)
            elif isinstance(part, Rounding):
                stored = part.settled()
                for reader, _ in part.sees:
                    self.decisions[reader].weights[reader] = stored
            elif isinstance(part, Vector) and part.tensors:
                decision = self.decisions.get(reader)
                if decision is not None:
                    decision.biases[reader] = part.settled()
                else:
                    self.vectors[reader, part.index] = part.settled()
