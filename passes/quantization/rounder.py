"""Decide the codes of one reader of weights after another, while two streams run: the exact one,
and the one behind the part that is quantized already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import torch

from ...ir import Graph, InputError, Node, ops
from ...ir.codes import in_kernel_order
from ...ir.gauge import Site
from ...ir.memory import give_back
from ..base import Context
from ..calibration import as_matrix, as_rows, padding_mask, refuse_non_finite
from ..journal import journaled
from ..shelf import Mapped
from .choices import ChosenRounding
from .clipping import ActivationRange, least_error, of_share, sample
from .evidence import Evidence, MakeUp
from .patches import Patches
from .streams import Compute, Values
from .token_weights import TokenWeights
from .values import Activations, Coding, Limits, coding
from .weights import Stored

CorrectBias: TypeAlias = bool | Literal["all"]
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


class Replaced:
    """Lets weights go one after the other, once nobody needs them beside their codes.

    Args:
        decisions: By reader; each is filled when its readers pass.
    """

    def __init__(self, graph: Graph, decisions: Mapping[Node, Decision]) -> None:
        self.graph, self.decisions = graph, decisions
        self.passed: set[Node] = set()

    def __call__(self, node: Node) -> None:
        self.passed.add(node)
        decision = self.decisions.get(node)
        # Readers of one site that lie apart are decided together each time.
        if decision is None or not self.passed.issuperset(decision.site.readers):
            return
        for weight in {reader.args[1]: None for reader in decision.weights}:
            if weight.op == "param" and weight.users.keys() <= self.passed:
                self.graph.store.let_go(weight.name, "it has codes, which take its place")


class Rounder:
    """Decides for one reader after another, while the two streams run."""

    def __init__(
        self,
        context: Context,
        rounding: ChosenRounding,
        tokens: TokenWeights | None,
        *,
        correct_bias: CorrectBias,
        make_up: MakeUp,
        activation_ranges: ActivationRange,
    ) -> None:
        self.context, self.rounding, self.tokens = context, rounding, tokens
        self.correct_bias: CorrectBias = correct_bias
        self.make_up: MakeUp = make_up
        self.activation_ranges: ActivationRange = activation_ranges
        self.masks = [padding_mask(batch) for batch in context.calibration]
        self.learned_on = range(len(self.masks))  # batches that decide; others only flow along
        self.decision: Decision | None = None  # the one whose inputs are at hand
        self.evidence: dict[Node, Evidence | None] = {}  # of its readers, of means alone

    def corrects(self, reader: Node, count: int = ROWS_FOR_A_MEAN) -> bool:
        """Whether a bias takes up the mean error of a reader, and so many rows are enough for it to
        be that of others."""
        has = reader.operand(2) is not None or self.correct_bias == "all"
        return bool(self.correct_bias) and has and count >= ROWS_FOR_A_MEAN

    def look_up(self, node: Node) -> Compute:
        """What an embedding gives once its table is quantized."""
        table = self.rounding.ahead[node.args[0]].value
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
            self._enter(decision, quantized)
            self._round(decision, exact, quantized)
        evidence = self.evidence[node]
        stored = decision.weights.get(node)
        graph = self.rounding.graph
        source: Node = node.args[1]
        bias: Node | None = node.operand(2)
        value: torch.Tensor | None = None
        if evidence is not None and self.corrects(node, evidence.count):
            weight = self.rounding.read(node) if stored is None else stored.value
            old = graph.value(source) if source.op == "param" else weight
            old, new = in_kernel_order(old), in_kernel_order(weight)
            shift = evidence.mean_exact @ old.T - evidence.mean @ new.T
            value = shift if bias is None else graph.value(bias) + shift
        return Rounded(stored, value, decision.coding, decision.notes)

    def _enter(self, decision: Decision, quantized: Values) -> None:
        """Quantize a site's value."""
        site = decision.site
        at_hand = self._rows(site, quantized)
        for part in at_hand:
            refuse_non_finite(site.value, part)

        def limits() -> Limits:
            return self._limits(decision, self._deciding(at_hand))

        if decision.coding is None:
            dtype = self.context.activation_dtype
            decision.coding = coding(decision.activations, site, limits, dtype)

    def _round(self, decision: Decision, exact: Values, quantized: Values) -> None:
        """Decide the weights of all readers of a site, of those together that read the same rows.
        Their Hessian is not needed after that."""
        parts: dict[Patches | None, list[Node]] = {}
        self.evidence, decision.notes = {}, []
        for reader in decision.site.readers:
            patches = None if reader.op == "linear" else Patches.of(reader)
            if patches is None and reader.op != "linear":
                decision.weights |= self.rounding.round([reader], notes=decision.notes)
                self.evidence[reader] = None
            else:
                parts.setdefault(patches, []).append(reader)
        for patches, readers in parts.items():
            evidence = self._learn(readers, patches, decision, exact, quantized)
            give_back()
            decision.weights |= self.rounding.round(
                readers,
                evidence.hessian,
                lambda weight, e=evidence: e.aim(weight, self.make_up),
                decision.notes,
            )
            if evidence.hessian is not None:
                decision.notes += evidence.hessian.notes
            self.evidence |= dict.fromkeys(readers, replace(evidence, hessian=None, drifts=()))
        give_back()

    def _learn(
        self,
        readers: Sequence[Node],
        patches: Patches | None,
        decision: Decision,
        exact: Values,
        quantized: Values,
    ) -> Evidence:
        """What readers of the same rows need to know of them."""
        site = decision.site
        codes = Mapped(lambda i: decision.simulate(quantized[i]), len(quantized))
        if patches is None:
            rows, plain = self._rows(site, codes), self._rows(site, exact)
        else:
            rows, plain = (self._patches(patches, values) for values in (codes, exact))
        lengths = [len(part) for part in plain]
        tokens = self.tokens if patches is None else None
        counts = None if tokens is None else tokens.of_rows(readers[0], lengths)
        count = sum(self._deciding(lengths))
        return Evidence.of(
            site.value,
            self._deciding(plain),
            self._deciding(rows),
            counts=None if counts is None else self._deciding(counts),
            centered=all(self.corrects(reader, count) for reader in readers),
            drifts=2 if self.make_up == "held-out" else int(bool(self.make_up)),
        )

    def _limits(self, decision: Decision, rows: Values) -> Limits:
        """The range of static codes."""
        ends = [part.aminmax() for part in rows if part.numel()]
        if not ends:
            raise InputError(
                f"no calibration batch gives {decision.site.value.name} a row, of which its range "
                "could be known",
                where=decision.site.value.at,
                do="calibrate on inputs that reach it, or passes='w8a8-dynamic'",
            )
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

    def _patches(self, patches: Patches, values: Values) -> Values:
        """What a kernel reads of a value, by batch."""
        return Mapped(lambda i: patches.rows(values[i], len(values)), len(values))
