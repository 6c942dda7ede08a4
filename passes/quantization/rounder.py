"""Decide the codes of one reader of weights after another, while two streams run: the exact one,
and the one behind the part that is quantized already."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from ...ir import Node, ops
from ...ir.gauge import Site
from ..base import Context
from ..calibration import as_matrix, as_rows, padding_mask
from ..journal import journaled
from ..memory import give_back
from ..shelf import Mapped
from .choices import ChosenRounding
from .clipping import ActivationRange, least_error, of_share, sample
from .evidence import Evidence, MakeUp, refuse_non_finite
from .streams import Compute, Values
from .token_weights import TokenWeights
from .values import Activations, Coding, Limits, coding
from .weights import Stored

ROWS_FOR_A_MEAN = 64  # below, biases stay as they are


@journaled
@dataclass(frozen=True)
class Rounded:
    """What was decided for one reader.

    Attributes:
        stored: What becomes of its weights, if that was still to be decided.
        bias: A new one.
        coding: Of what it reads.
        notes: What was out of the ordinary.
    """

    stored: Stored | None
    bias: torch.Tensor | None
    coding: Coding | None
    notes: list[str]


@dataclass(eq=False)
class Decision:
    """What was decided for the readers of one value that quantize it alike."""

    site: Site
    activations: Activations | None
    coding: Coding | None = None
    weights: dict[Node, Stored] = field(default_factory=dict[Node, Stored])
    biases: dict[Node, torch.Tensor] = field(default_factory=dict[Node, torch.Tensor])
    notes: list[str] = field(default_factory=list[str])  # what was out of the ordinary

    def simulate(self, value: torch.Tensor) -> torch.Tensor:
        """What readers see of a value."""
        return value if self.coding is None else self.coding.simulate(value)


class Rounder:
    """Decides for one reader after another, while the two streams run."""

    def __init__(
        self,
        context: Context,
        rounding: ChosenRounding,
        tokens: TokenWeights | None,
        *,
        correct_bias: bool,
        make_up: MakeUp,
        activation_ranges: ActivationRange,
    ) -> None:
        self.context, self.rounding, self.tokens = context, rounding, tokens
        self.correct_bias = correct_bias
        self.make_up: MakeUp = make_up
        self.activation_ranges: ActivationRange = activation_ranges
        self.masks = [padding_mask(batch) for batch in context.calibration]
        self.learned_on = range(len(self.masks))  # batches that decide; others only flow along
        self.decision: Decision | None = None  # the one whose inputs are at hand
        self.evidence: Evidence | None = None

    def _corrects(self, count: int) -> bool:
        """Whether so many rows are enough for their mean error to be that of others."""
        return self.correct_bias and count >= ROWS_FOR_A_MEAN

    def look_up(self, node: Node) -> Compute:
        """What an embedding gives once its table is quantized."""
        table = self.rounding.tables[node.args[0]].value
        return lambda indices: ops.call(node.op, (table, indices), node.attrs)

    def visit(self, node: Node, decision: Decision, exact: Values, quantized: Values) -> Compute:
        """Decide for a reader; how it computes from then on."""
        made = self.context.journal.once(
            node.name, lambda: self._decide(node, decision, exact, quantized)
        )
        decision.coding, decision.notes = made.coding, made.notes
        if made.stored is not None:
            decision.weights[node] = made.stored
        if made.bias is not None:
            decision.biases[node] = made.bias
        weight = self.rounding.read(node) if made.stored is None else made.stored.value
        bias = node.operand(2)
        value = None if bias is None else self.rounding.graph.value(bias)
        value = value if made.bias is None else made.bias

        def compute(data: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return ops.call(node.op, (decision.simulate(data), weight, value), node.attrs)

        return compute

    def _decide(self, node: Node, decision: Decision, exact: Values, quantized: Values) -> Rounded:
        if decision is not self.decision:
            self.decision = decision
            self._enter(decision, exact, quantized)
            self._round(decision)
        evidence = self.evidence
        stored = decision.weights.get(node)
        graph = self.rounding.graph
        source: Node = node.args[1]
        bias: Node | None = node.operand(2)
        value: torch.Tensor | None = None
        if bias is not None and evidence is not None and self._corrects(evidence.count):
            weight = self.rounding.read(node) if stored is None else stored.value
            old = graph.value(source) if source.op == "param" else weight
            shift = evidence.mean_exact @ old.T - evidence.mean @ weight.T
            value = graph.value(bias) + shift
        return Rounded(stored, value, decision.coding, decision.notes)

    def _enter(self, decision: Decision, exact: Values, quantized: Values) -> None:
        """Quantize a site's value, and gather what its readers need to know of it."""
        site = decision.site
        at_hand = self._rows(site, quantized)
        lengths: list[int] = []
        for part in at_hand:
            refuse_non_finite(site.value, [part], "is not finite")
            lengths.append(len(part))

        def limits() -> Limits:
            return self._limits(decision, self._deciding(at_hand))

        if decision.coding is None:
            dtype = self.context.activation_dtype
            decision.coding = coding(decision.activations, site, limits, dtype)
        self.evidence = None
        if site.axis != -1:
            return
        codes = Mapped(lambda i: decision.simulate(quantized[i]), len(quantized))
        rows, plain = self._rows(site, codes), self._rows(site, exact)
        counts = None if self.tokens is None else self.tokens.of_rows(site.readers[0], lengths)
        biased = all(reader.operand(2) is not None for reader in site.readers)
        self.evidence = Evidence.of(
            site.value,
            self._deciding(plain),
            self._deciding(rows),
            counts=None if counts is None else self._deciding(counts),
            centered=biased and self._corrects(sum(self._deciding(lengths))),
            drifts=2 if self.make_up == "held-out" else int(bool(self.make_up)),
        )

    def _round(self, decision: Decision) -> None:
        """Decide the weights of all readers of a site, whose Hessian is not needed any more."""
        give_back()
        evidence, make_up = self.evidence, self.make_up
        if evidence is None or evidence.hessian is None:
            decision.weights |= self.rounding.round(decision.site.readers)
            return
        decision.weights |= self.rounding.round(
            decision.site.readers, evidence.hessian, lambda weight: evidence.aim(weight, make_up)
        )
        decision.notes = evidence.hessian.notes
        self.evidence = replace(evidence, hessian=None, drifts=())
        give_back()

    def _limits(self, decision: Decision, rows: Values) -> Limits:
        """The range of static codes."""
        ends = [part.aminmax() for part in rows]
        limits = min(low for low, _ in ends), max(high for _, high in ends)
        if self.activation_ranges == "seen":
            return limits
        if not isinstance(self.activation_ranges, str):
            return of_share(sample(rows), self.activation_ranges, limits)
        site, dtype = decision.site, self.context.activation_dtype

        def coded(found: Limits) -> Coding:
            made = coding(decision.activations, site, lambda: found, dtype)
            assert made is not None, "only what has a range is asked for one"
            return made

        weights = [as_matrix(self.rounding.of(r).read(r.args[1])) for r in site.readers]
        costs = [weight.square().sum(0) for weight in weights if weight.shape[1] == site.size]
        importance = torch.stack(costs).sum(0) if costs else torch.ones(site.size)
        return least_error(sample(rows), importance, limits, coded)

    def _deciding(self, values: Values) -> Values:
        """Of the batches that decide."""
        return Mapped(lambda i: values[self.learned_on[i]], len(self.learned_on))

    def _rows(self, site: Site, values: Values) -> Values:
        """A value's rows, by batch, without those of padding."""
        return Mapped(lambda i: as_rows(values[i], site.axis, self.masks[i]), len(values))
