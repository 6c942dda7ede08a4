"""Quantize contractions: their weights in any format, and what they read in eight bits.

    y = W x + c   becomes   y = (s q)(t (u - z)) + c'

Weights: by default int8 codes q, one scale s for each output channel or row of an embedding, which
integer kernels take; or codes of any other format, packed, and decoded where they are read.
Activations:
uint8 codes u, static (one t and z for each value, from the range seen on calibration data) or
dynamic (t for each token, as it comes), or any other format, simulated (``values``). Readers that
share a value share its codes. Results stay in floating point: no runtime gains by more, and it
costs accuracy. Codes are real integers in the graph, with the ops that give them meaning; backends
run these on integers.

Rounding is to the nearest, or by a solver (``solvers``; GPTQ, where nothing is asked) with the
Hessian of the activations as they come out of the quantized prefix (F6); a convolution is the
linear map of its patches (``patches``). A bias takes up the mean error that is left,
E[W x] - E[s q t (u - z)], x from the exact stream. Both are left out where calibration has too few
rows for them. Approximate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from ...ir import Graph, InputError, Node
from ...ir.codes import fits_pairs
from ...ir.formats import named
from ...ir.gauge import Site, inputs_of_contractions, weighted
from ...ir.gauge.sites import TRANSPOSED
from ..base import Context, Pass, Promise, Remark, Stage, applied, missed
from ..options import SHARE, SOME, check_kinds, check_known, check_numbers
from .choices import (
    CHANNELWISE,
    Choice,
    Choices,
    ChosenRounding,
    computed_weights,
    in_products,
    reads_floats,
)
from .clipping import HELD, ActivationRange
from .evidence import MakeUp
from .integer_results import CONVOLUTIONS, IntegerResults
from .rounder import CorrectBias, Decision, Replaced, Rounder
from .solvers import RANGES, Range, Solver, named_solver, rounded
from .streams import Compute, Values, Visit, run_streams
from .token_weights import TokenWeights
from .values import Activations, Limits, coding, format_of, is_static
from .weights import Channelwise, Compensated
from .zeros import KEPT


@dataclass(frozen=True)
class Quantize(Pass):
    """Quantize weights and, if asked, activations.

    A weight that several values meet, as of layers that are applied again and again, is rounded to
    the nearest, once for all who read it.

    Args:
        weights: The format of linear layers and embedding tables (``formats.named``); what it does
            not fit, and convolutions, are int8 with a scale a channel. So are the weights of
            transposed convolutions, products by group (``grouped_mm``) and recurrent layers,
            rounded to the nearest, and what these read stays in floating point.
        activations: ``static``, ``static16``, ``dynamic`` (each token), ``dynamic-tensor``, a
            format, simulated, or ``None`` for weights only.
        rounding: A solver or its name (``solvers.SOLVERS``); all but ``nearest`` need calibration
            data.
        ranges: Where the scales of linear layers in a format come from: their whole ``range``, the
            ``error`` of the weights, or that of the ``output`` of each group (AWQ's clipping).
        activation_ranges: Where static ranges of activations come from: all that was ``seen``,
            where the ``error`` is least (``clipping``), or what holds a share of all numbers.
        correct_bias: Whether biases take up the mean error; needs calibration data too. ``all``:
            layers without a bias get one for it.
        make_up: The share of the errors before them that weights make up for, as far as these
            follow from what they read (QEP); of each weight the one that is best for rows left
            out (``held-out``). Needs calibration data, and gains most where errors are great.
        low_rank: The rank of a product of thin matrices, in int8, that is added to what each linear
            layer gives, for what its codes lose (LoRC); 0 for none.
        token_weights: What the tokens count that weights are rounded by: each the ``attention``
            that it gets (RSQ), or all the same.
        keep_zeros: From which share of zeros on a weight of a contraction keeps them: the solver
            holds them, and what stays makes up for it (SparseGPT's joint form). 0: all zeros stay;
            ``None``: a solver may fill them. Remarks say which weights keep theirs.
        embeddings: Whether embedding tables are quantized.
        tables: The format of embedding tables, where it is another.
        least: Matrices of fewer elements stay as they are: they weigh nothing.
        coded_results: Whether all results get codes later (``QuantizeResults``), so that
            convolutions can read codes wherever they are.
        choices: For readers of weights by name, in place of ``weights`` and ``activations``; for an
            embedding, the format of its table.
    """

    activations: Activations | None = "static"
    weights: str = CHANNELWISE
    rounding: str | Solver = "gptq"
    ranges: Range = "error"
    activation_ranges: ActivationRange = "seen"
    correct_bias: CorrectBias = True
    make_up: MakeUp = 0.0
    low_rank: int = 0
    token_weights: Literal["attention"] | None = None
    keep_zeros: float | None = KEPT
    embeddings: bool = True
    tables: str | None = None
    least: int = 1024
    coded_results: bool = False
    choices: Mapping[str, Choice] = field(default_factory=dict[str, Choice])
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.QUANTIZE

    def __post_init__(self) -> None:
        check_kinds(self, weights=str, activations=str | None, tables=str | None, choices=Mapping)
        if wrong := [one for one in self.choices.values() if type(one) is not Choice]:
            raise InputError(f"{wrong[0]!r} is no choice", do="Choice('int4-g32', 'dynamic')")
        for name in self.formats:
            named(name)  # raises where there is no such format
        _ = self._solver, self.activation_codes  # raise likewise
        check_known([self.ranges], RANGES, "source of ranges")
        check_known([self.correct_bias], (False, True, "all"), "correction of biases")
        check_known([self.token_weights], (None, "attention"), "weight of tokens")
        check_numbers(
            self,
            activation_ranges=HELD | "seen" | "error",
            make_up=SHARE | "held-out" | False | True,
            low_rank=SOME,
            keep_zeros=SHARE | None,
            least=SOME,
        )
        check_kinds(self, embeddings=bool, coded_results=bool)

    @property
    def formats(self) -> tuple[str, ...]:
        chosen = (choice.weights for choice in self.choices.values())
        asked = dict.fromkeys((self.weights, self.tables or self.weights, *chosen))
        return tuple(name for name in asked if name is not None and name != CHANNELWISE)

    @property
    def activation_codes(self) -> tuple[str, ...]:
        for activations in self._activations:
            format_of(activations)  # raises where there is no such format
        return tuple(found for found in self._activations if found is not None)

    @property
    def _activations(self) -> tuple[Activations | None, ...]:
        chosen = (choice.activations for choice in self.choices.values())
        return tuple(dict.fromkeys((self.activations, *chosen)))

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        remarks: list[Remark] = []
        rest = Choice(self.weights, self.activations)
        choices = Choices(graph, self.choices, rest, self.tables or self.weights)
        choices.check_zeros(graph)
        if not self.coded_results:
            choices.spare_turns(graph)
        rounding = ChosenRounding(
            graph,
            choices,
            solver=self._solver,
            ranges=self.ranges,
            rank=self.low_rank,
            pairs=context.pairs_in_16_bits,
            keep_zeros=self.keep_zeros,
        )
        for weight in self._ahead(graph):
            if (form := choices.of_all(weight)) is not None:
                rounding.ahead[weight] = context.journal.once(
                    f"ahead-{weight.name}",
                    lambda weight=weight, form=form: rounding.by_itself(weight, form),
                )
        kinds = {node: choices.of(node).activations for node in choices.readers if weighted(node)}
        results = None
        if set(kinds.values()) != {None}:
            others = frozenset(node for node, kind in kinds.items() if kind != "static")
            kind = "static" if len(others) < len(kinds) else "dynamic"
            closed = context.closed_convolutions and not self.coded_results
            results = IntegerResults.find(graph, context, kind, others, closed)
        floats = [] if results is None else results.floats(graph)
        choices.without_codes(floats)
        found: list[Decision] = []
        for site in inputs_of_contractions(graph):
            for part, activations in choices.split(site):
                refused = self._refused(graph, part, rounding)
                taken = tuple(reader for reader in part.readers if reader not in refused)
                if taken:
                    found.append(Decision(replace(part, readers=taken), activations))
                # What is refused of those that read floats gets codes by itself below.
                remarks += [missed(r, text) for r, text in refused.items() if r not in floats]
        remarks += in_products(graph, self.least)
        remarks += self._decide(graph, context, found, rounding)
        remarks += _undivided(choices, found, rounding)
        for weight, stored in rounding.ahead.items():
            said = rounding.zeros_ahead(weight)
            text = "; ".join(filter(None, [f"{weight.name} in {stored}", said]))
            remarks.append(applied(next(iter(weight.users)), text))
            stored.store(graph, weight)
        for decision in found:
            remarks.append(self._insert(graph, decision))
        floats += filter(reads_floats, graph.nodes)
        for reader in floats:
            if choices.of(reader).weights is not None:
                remarks.extend(self._store(graph, reader, set(floats)))
        remarks += choices.left()
        remarks += computed_weights(graph)
        if results is not None:
            remarks.extend(results.insert(graph, context, self.name))
        return remarks

    # -- what there is to quantize --------------------------------------------------------------

    def _ahead(self, graph: Graph) -> list[Node]:
        """What is decided before anything runs: the tables of embeddings, and weights that several
        values meet."""

        def reads(user: Node, param: Node) -> bool:
            return (user.op == "embedding" and user.args[0] is param) or (
                weighted(user) and user.args[1] is param
            )

        def asks(param: Node) -> bool:
            table = any(user.op == "embedding" for user in param.users)
            return self.embeddings if table else len({user.args[0] for user in param.users}) > 1

        return [
            param
            for param in graph.params.values()
            if all(reads(user, param) for user in param.users)
            and asks(param)
            and graph.value(param).numel() >= self.least
        ]

    def _refused(self, graph: Graph, site: Site, rounding: ChosenRounding) -> dict[Node, str]:
        """The readers of a site that stay as they are, and why; what they read is floats to them,
        whatever the others make of it."""
        reasons = {reader: self._reason(graph, reader, site, rounding) for reader in site.readers}
        return {reader: reason for reader, reason in reasons.items() if reason}

    def _reason(self, graph: Graph, reader: Node, site: Site, rounding: ChosenRounding) -> str:
        weight: Node = reader.args[1]
        if weight in rounding.ahead or rounding.keeps(reader):
            return ""
        if weight.op != "param":  # quantized before
            pairs = rounding.of(reader).pairs and weight.op == "dequantize"
            if pairs and not fits_pairs(graph.value(weight.args[0])):
                return f"neighbouring codes of {weight.name} overflow 16 bits"
            return ""
        size = graph.value(weight).numel()
        joins = reader.op in CONVOLUTIONS and rounding.choices.of(reader).activations
        if size < self.least and not joins:  # small ones join large ones in codes
            return f"{weight.name} has only {size} elements"
        others = [user.name for user in weight.users if user not in site.readers]
        return f"{weight.name} is also read by {', '.join(others)}" if others else ""

    def _store(self, graph: Graph, reader: Node, floats: set[Node]) -> list[Remark]:
        """Codes for the weights of a reader of floats, which all who read them can use."""
        weight: Node = reader.args[1]
        if weight.op != "param":  # quantized before, for another reader too
            return []
        if others := [user.name for user in weight.users if user not in floats]:
            return [missed(reader, f"{weight.name} is also read by {', '.join(others)}")]
        value = graph.value(weight)
        if value.numel() < self.least:
            return [missed(reader, f"{weight.name} has only {value.numel()} elements")]
        if reader.op in TRANSPOSED and (groups := reader.attrs.get("groups", 1)) > 1:
            text = f"{weight.name} has its outputs in {groups} groups, on no axis of their own"
            return [missed(reader, f"{text} that scales could be on; it stays in floating point")]
        if reader.op == "grouped_mm":  # [E, I, O]: a scale for each output of each expert
            codes, scale = (part.transpose(1, 2) for part in rounded(value.transpose(1, 2), axes=2))
        elif reader.op in TRANSPOSED:  # [I, O, ...]
            codes, scale = (part.transpose(0, 1) for part in rounded(value.transpose(0, 1)))
        else:
            codes, scale = rounded(value)
        Channelwise(codes.contiguous(), scale.contiguous()).store(graph, weight)
        return [applied(reader, "int8 weights; what it reads stays in floating point")]

    # -- what to make of it ---------------------------------------------------------------------

    @property
    def _solver(self) -> Solver:
        return named_solver(self.rounding)

    @property
    def _learns(self) -> bool:
        return (
            any(map(is_static, self._activations))
            or self._solver.learns
            or self.ranges == "output"
            or bool(self.correct_bias)
            or bool(self.make_up)
        )

    def _decide(
        self, graph: Graph, context: Context, found: list[Decision], rounding: ChosenRounding
    ) -> list[Remark]:
        if not self._learns:
            for decision in found:
                decision.coding = coding(decision.activations, decision.site, _no_limits)
                readers, notes = decision.site.readers, decision.notes
                decision.weights |= rounding.round(readers, notes=notes)
            return []
        context.need_calibration(self.name)
        decisions = {reader: decision for decision in found for reader in decision.site.readers}
        targets = dict.fromkeys(decisions, 0)
        targets |= {u: 1 for weight in rounding.ahead for u in weight.users if u.op == "embedding"}
        tokens = None
        if self.token_weights == "attention":
            tokens = TokenWeights.of(graph, context, self.name)
        rounder = Rounder(
            context,
            rounding,
            tokens,
            correct_bias=self.correct_bias,
            make_up=self.make_up,
            activation_ranges=self.activation_ranges,
        )

        def visit(node: Node, exact: Values, quantized: Values) -> Compute:
            if node.op == "embedding":
                return rounder.look_up(node)
            return rounder.visit(node, decisions[node], exact, quantized)

        return self._stream(graph, targets, visit, rounder, decisions)

    def _stream(
        self,
        graph: Graph,
        targets: dict[Node, int],
        visit: Visit,
        rounder: Rounder,
        decisions: dict[Node, Decision],
    ) -> list[Remark]:
        """Run the streams, and fill the decisions, which are by reader."""
        batches, context = rounder.context.calibration, rounder.context
        corrects = any(map(rounder.corrects, decisions))
        run_streams(
            graph,
            batches,
            targets,
            visit,
            context,
            f"{self.name}: rounding",
            exact_too=corrects or bool(self.make_up),
            passed=Replaced(graph, decisions),
        )
        return []

    def _insert(self, graph: Graph, decision: Decision) -> Remark:
        site = decision.site
        sources = {reader.args[1]: stored for reader, stored in decision.weights.items()}
        for source, stored in sources.items():
            stored.store(graph, source)
        for reader, bias in decision.biases.items():
            graph.give(reader, 2, bias, name=f"{reader.name}_bias")
        names = ", ".join(reader.name for reader in site.readers)
        shared = any(reader.args[1].op != "param" for reader in site.readers)
        kinds = ", ".join(dict.fromkeys(map(str, decision.weights.values())))
        text = f"{kinds or ('shared' if shared else 'unchanged')} weights"
        if decision.coding is not None:
            decision.coding.insert(graph, site)
            text += f" and {decision.coding}"
        for reader, stored in decision.weights.items():
            if isinstance(stored, Compensated):
                stored.attach(graph, reader)
        return applied(site.value, "; ".join([f"{text} of {names}", *decision.notes]))


def _undivided(
    choices: Choices, decisions: Sequence[Decision], rounding: ChosenRounding
) -> Iterator[Remark]:
    """What the groups of the format that was chosen do not divide, and has another."""
    ahead = [
        (next(iter(weight.users)), weight, stored, choices.of_all(weight))
        for weight, stored in rounding.ahead.items()
    ]
    layers = [
        (reader, reader.args[1], stored, choices.of(reader).weights)
        for decision in decisions
        for reader, stored in decision.weights.items()
        if reader.op == "linear"
    ]
    for reader, weight, stored, form in (*ahead, *layers):
        codes = stored.codes if isinstance(stored, Compensated) else stored
        if isinstance(codes, Channelwise) and form not in (None, CHANNELWISE):
            text = f"groups of {form} do not divide rows of {weight.shape[-1]}"
            yield missed(
                reader,
                f"{weight.name} is in int8 by the channel: {text}",
                "choose groups that do, or a format with -pad, which fills rows up with zeros",
            )


def _no_limits() -> Limits:
    raise AssertionError("static ranges are learned from data")
