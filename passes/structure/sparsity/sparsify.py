"""Put zeros into the weights of contractions, of a pattern that storage or kernels can use.

    rates (how many of each layer)  ->  score (which)  ->  the weights that stay make up for them

A linear layer or a convolution gives ``W x``; zeros are put where ``E |V x - W x|^2`` grows least
(``refit``), over what it reads behind the layers before it that have their zeros already: Wanda
(A23), the Optimal Brain Surgeon, SparseGPT, or a search of zeros and weights together. A bias takes
up the mean error. Parameters keep their sizes: what is smaller, or faster, depends on who stores
and runs them.

Codes that ``Quantize`` makes behind it have the same zeros, whatever rounds them, in any format of
single numbers that has a zero, with or without a zero point; where less than one weight in eight is
zero, with ``keep_zeros=0``.

Exact at the limit ``remove=0``. Approximate.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar, Literal, TypeAlias, get_args

from ....ir import Graph, InputError, Node
from ....ir.gauge import weighted
from ....ir.gauge.sites import CONTRACTIONS
from ...base import Context, Promise, Remark, Stage, applied, decided, missed
from ...options import PART, SHARE, SOME, check_known, check_numbers
from ...patterns import Pattern, Rows, Sparsity, named_pattern, named_sparsity
from ...quantization.evidence import MakeUp
from ...quantization.patches import Patches
from ...quantization.streams import run_streams
from ...sites import Asked, SparingPass
from ..costs import Costs
from ..groups import in_full
from ..options import at_most
from .rates import Even, Layer, Rates, essential, named_rates
from .zeros import METHODS, Method, Recovery, Zeros

Remove: TypeAlias = float | Mapping[str, float] | Literal["essential"]


@dataclass(frozen=True)
class Sparsify(SparingPass):
    """Set weights to zero.

    Args:
        remove: The part of the weights of all layers that goes, from 0 to below 1; or that of each
            layer, by the name of its weight, others stay; or ``essential``: as much as goes before
            the outputs change sharply (A60, ``rates.essential``). Where it is not given and the
            pattern does not say it: ``essential`` where each layer loses the same part and there
            is calibration data, else half.
        pattern: ``rows``: as many in each row, anywhere; ``layer``: anywhere; ``n:m``: n of each m
            neighbouring inputs stay; ``RxC``: blocks of R outputs and C inputs go as a whole. Or
            that of each layer, by the name of its weight, with the part that goes where it does not
            say it, such as ``rows-0.5``; others stay.
        score: What goes: the least by ``magnitude``, by ``wanda`` or by ``obs``; or what a
            ``sweep`` (SparseGPT) or a ``search`` finds, which costs some ten times as much.
        recover: How what stays makes up for it: not at all (``none``), as a ``sweep`` leaves it
            (with that score alone), or by ``least-squares``, the best there is for these zeros.
        rates: How zeros are divided among layers: the same part of each (``even``), by one
            threshold of ``magnitude``, by their sizes (``erk``), or ``RateDistortion`` (A81).
        make_up: The share of the errors before it that a layer makes up for (``Quantize``).
        least: Weights of fewer elements stay.
    """

    remove: Remove | None = None
    pattern: Pattern | str | Mapping[str, Sparsity | str] = "rows"
    score: Method = "sweep"
    recover: Recovery = "least-squares"
    rates: Rates | str = "even"
    make_up: MakeUp = 0.0
    least: int = 1024
    what: ClassVar[str] = "a contraction, its weight, or what it reads"
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def __post_init__(self) -> None:
        rates = named_rates(self.rates)
        parts = self.remove.values() if isinstance(self.remove, Mapping) else (self.remove,)
        for part in parts:
            _check_part(part)
        if isinstance(self.pattern, Mapping):
            for one in self.pattern.values():
                named_sparsity(one)
            if self.remove is not None or not isinstance(rates, Even):
                raise InputError(
                    "patterns by the names of weights say what goes of each",
                    do="leave remove and rates out",
                )
        else:
            self._check_ratio(named_pattern(self.pattern), set(parts), rates)
        if self.remove == "essential" and not isinstance(rates, Even):
            raise InputError("remove='essential' is found for the same part of each layer")
        check_numbers(self, make_up=SHARE | "held-out", least=SOME)
        check_known([self.score], METHODS, "score")
        if self.recover not in get_args(Recovery):
            names = ", ".join(map(repr, get_args(Recovery)))
            raise InputError(f"nothing recovers by {self.recover!r}", do=f"one of {names}")
        if self.recover == "sweep" and self.score != "sweep":
            raise InputError(
                "a sweep recovers for the zeros that it finds",
                do="score='sweep', or recover='least-squares', which is better for any zeros",
            )

    def _check_ratio(self, pattern: Pattern, parts: set[object], rates: Rates) -> None:
        if pattern.ratio is None:
            return
        if self.remove is not None and parts != {pattern.ratio}:
            raise InputError(
                f"remove={self.remove!r} is not what the pattern {pattern} leaves out",
                do=f"leave it out: {pattern} removes {pattern.ratio:.4g}",
            )
        if not isinstance(rates, Even):
            raise InputError(f"the pattern {pattern} takes the same part of each layer")

    @property
    def learns(self) -> bool:
        """Whether zeros depend on data."""
        return self.score != "magnitude" or self.recover != "none"

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        found, remarks = self._layers(graph, context, asked)
        wanted, note = self._wanted(graph, context, found)
        every_product = sum(layer.size * layer.positions for layer in found)
        found = [layer for layer in found if layer.name in wanted]
        if not found:
            return remarks
        zeros = Zeros(wanted, self.score, self.recover, self.make_up)
        if self.learns:
            batches = context.need_calibration(self.name)
            wide = in_full(graph)
            targets = {wide[layer.node.name]: 0 for layer in found}
            run_streams(wide, batches, targets, zeros.of(wide, context, targets), context,
                        f"{self.name}: zeros", exact_too=zeros.needs_exact)  # fmt: skip
        else:
            for layer in found:
                zeros.by_size(graph, layer.node)
        total = gone = without = 0
        for layer in found:  # the graph as it was had to be run until here
            made = zeros.made[layer.node.name]
            old = graph.value(layer.weight)
            value = made.weight.to(old.dtype) + 0  # a negative zero is a number that is stored
            new = graph.give(layer.node, 1, value)
            if made.bias is not None:
                bias = graph.value(layer.node.args[2])
                graph.give(layer.node, 2, made.bias.to(bias.dtype))
            empty = int((graph.value(new) == 0).sum())
            total, gone = total + old.numel(), gone + empty
            without += empty * layer.positions
            pattern = wanted[layer.name].pattern
            text = f"{empty:,} of {old.numel():,} weights are zero ({pattern})"
            remarks.append(applied(layer.node, "; ".join([text, *made.notes]), zeros=empty))
        every = sum(graph.value(param).numel() for param in graph.params.values())
        text = (
            f"{gone:,} of {total:,} weights in {len(found)} layers are zero "
            f"({100 * gone / total:.3g} %), of all parameters {100 * gone / every:.3g} %{note}"
        )
        if named_rates(self.rates).products:
            part = 100 * without / every_product
            text += f"; of the products of all that may lose some {part:.3g} %"
        rates = {name: one.remove for name, one in wanted.items()}
        data = {"zeros": gone, "rates": rates, "preparation": True}
        return [*remarks, decided(graph, text, **data)]

    # -- what there is ------------------------------------------------------------------------

    def _check_names(
        self, option: str, given: Collection[str], found: Sequence[Layer], graph: Graph
    ) -> None:
        """Raise where one of the names is that of no weight that can lose any."""
        names = {layer.name for layer in found}
        unknown = next((name for name in given if name not in names), None)
        if unknown is None:
            return
        reasons = self._reasons(graph, given)
        free = [name for name, reason in reasons.items() if not reason]
        why = reasons.get(unknown) or ("" if free else next(filter(None, reasons.values()), ""))
        near = get_close_matches(str(unknown), free, n=5, cutoff=0)
        raise InputError(
            f"{option} names {unknown}, which is no weight that can lose any{why and f': {why}'}",
            do=f"names such as {', '.join(near)}" if near else "other options: none of them can",
        )

    def _reasons(self, graph: Graph, given: Collection[str]) -> dict[str, str]:
        """Of each weight, by its name, why it can lose none; empty of one that can."""
        asked, reasons = self._asked(graph), dict[str, str]()
        for node in graph.nodes:
            if node.op in CONTRACTIONS and weighted(node):
                weight: Node = node.args[1]
                pattern = self._pattern_of(weight) if weight.name in given else Rows()
                reason = asked.protected(node, weight) or self.refusal(graph, node, pattern)
                if not reason and not asked(node, weight, node.args[0]):
                    reason = "it is at none of the sites"
                reasons[weight.name] = reason
        return reasons

    def _layers(
        self, graph: Graph, context: Context, asked: Asked
    ) -> tuple[list[Layer], list[Remark]]:
        found: list[Layer] = []
        remarks: list[Remark] = []
        products = named_rates(self.rates).products
        costs = Costs(graph, [], context.inputs) if products else None
        for node in graph.nodes:
            if node.op not in CONTRACTIONS or not weighted(node):
                continue
            weight: Node = node.args[1]
            if not asked(node, weight, node.args[0]):
                continue
            if isinstance(self.pattern, Mapping) and weight.name not in self.pattern:
                continue
            pattern = self._pattern_of(weight)
            sentence = asked.protected(node, weight) or self.refusal(graph, node, pattern)
            if sentence:
                remarks.append(missed(node, sentence))
            else:
                positions = 1
                if costs is not None:
                    positions = costs.of([node]) // graph.value(weight).numel()
                found.append(Layer(node, weight, tuple(graph.value(weight).shape), positions))
        return found, remarks

    def _pattern_of(self, weight: Node) -> Pattern:
        if isinstance(self.pattern, Mapping):
            return named_sparsity(self.pattern[weight.name]).pattern
        return named_pattern(self.pattern)

    def refusal(self, graph: Graph, node: Node, pattern: Pattern) -> str:
        """Why a contraction stays dense; empty where it need not."""
        weight: Node = node.args[1]
        if weight.op != "param":
            return f"{weight.name} is codes already; zeros come before them"
        if others := [user.name for user in weight.users if user is not node]:
            return f"{weight.name} is also read by {', '.join(others)}"
        value = graph.value(weight)
        if value.numel() < self.least:
            return f"{weight.name} has only {value.numel()} elements"
        if self.learns and node.op != "linear" and Patches.of(node) is None:
            return (
                f"{weight.name} has a kernel for each group of channels, or one that reads too "
                "much; score='magnitude' with recover='none' asks nothing of what is read"
            )
        if sentence := pattern.refusal(len(value), value.shape[1]):
            return f"{weight.name} stays dense: {sentence}"
        return ""

    def spared(self, graph: Graph) -> set[str]:
        """The names of contractions that are protected, or that nobody asked for."""
        asked = self._asked(graph)
        return {
            node.name
            for node in graph.nodes
            if weighted(node)
            and (asked.protected(node, node.args[1]) or not asked(node, *node.args[:2]))
        }

    def _wanted(
        self, graph: Graph, context: Context, found: Sequence[Layer]
    ) -> tuple[dict[str, Sparsity], str]:
        """The zeros of each layer that gets some, by the weight's name, and what is said of it."""
        if isinstance(self.pattern, Mapping):
            wanted = {name: named_sparsity(one) for name, one in self.pattern.items()}
            self._check_names("pattern", wanted, found, graph)
            for layer in found:
                one = wanted[layer.name]
                if layer.emptied(one.pattern, one.remove):
                    raise _nothing_left(layer, one.pattern, one.remove, layer.most(one.pattern))
            return wanted, ""
        pattern = named_pattern(self.pattern)
        rates, note = self._rates(graph, context, found, pattern)
        return {name: Sparsity(pattern, part) for name, part in rates.items() if part > 0}, note

    def _rates(
        self, graph: Graph, context: Context, found: Sequence[Layer], pattern: Pattern
    ) -> tuple[dict[str, float], str]:
        """The part of each layer that goes, by the weight's name, and what is said of it."""
        if isinstance(self.remove, Mapping):
            self._check_names("remove", self.remove, found, graph)
            for layer in found:
                part = self.remove.get(layer.name, 0.0)
                if layer.emptied(pattern, part):
                    raise _nothing_left(layer, pattern, part, layer.most(pattern))
            return dict(self.remove), ""
        if pattern.ratio is not None:
            return {layer.name: pattern.ratio for layer in found}, ""
        if not found:
            return {}, ""
        rates = named_rates(self.rates)
        part, note = self.remove, ""
        if part is None:
            part = "essential" if isinstance(rates, Even) and context.calibration else 0.5
        if part == "essential":
            part = essential(graph, context, found, pattern).part
            note = f"; more than {part:.3g} changes the outputs sharply"
        most = rates.most(found, pattern)
        short = [layer for layer in found if layer.emptied(pattern, part)]
        if short and (isinstance(rates, Even) or part > most):
            raise _nothing_left(short[0], pattern, part, most)
        return rates.divide(graph, context, found, pattern, part), note


def _nothing_left(layer: Layer, pattern: Pattern, part: float, most: float) -> InputError:
    return InputError(
        f"remove={part:.6g} leaves none of the {layer.things(pattern):,} {pattern.things} of "
        f"{layer.name}",
        where=layer.node.at,
        do=f"remove={at_most(most)}, at most, or protect {layer.name}",
    )


def _check_part(part: object) -> None:
    if part is None or part == "essential":
        return
    if part not in PART:
        raise InputError(
            f"remove={part!r} is not the part of the weights that goes",
            do="a part from 0 to below 1, such as remove=0.5, or 'essential'",
        )
