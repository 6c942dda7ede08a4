"""Re-factored operators: a linear layer whose weight is a structured one, of fewer numbers.

    W x  ~  V x,    V of a form: low rank, a sum of Kronecker products, Monarch, a tensor train

Every form has one size, its rank, and is exact where that is full. With a Hessian H of what the
layer reads V is to be the best of its form for ``tr[(W - V) H (W - V)']``: what is lost of the
layer's result, not of its weights. Layers are re-factored in order, each by what it reads behind
those before it. The graph computes a form by ordinary ops (``linear``, ``bmm``, ``reshape``), so
every target runs it.

Source: A21 (Monarch, block tensor trains), A95 (tensor trains), F12.1 to F12.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, get_args

from ....ir import Graph, InputError, Node
from ....ir.gauge import weighted
from ...base import Context, Promise, Remark, Stage, applied, missed
from ...budget import Solver
from ...options import AMOUNT, COUNT, SHARE, SOME, check_kinds, check_known, check_numbers
from ...quantization.evidence import MakeUp
from ...sites import Asked, SparingPass
from ..costs import Costs
from ..options import at_most, check_part, spared, whole
from .factoring import COUNTED, Factored, Factoring, Latency, Layer, Limited, Offer, Score, allocate
from .forms import Form, LowRank, Measure, Writer


@dataclass(frozen=True)
class Factorize(SparingPass):
    """Give weights a structured form.

    Args:
        form: Which one (``forms``).
        remove: The part that is to go, between 0 and 1: of each layer; with a solver, of all layers
            together.
        of: Of the weights' ``parameters``; of the ``macs``, the products that they take; or, with a
            solver, of the graph's ``latency``, as ``latency`` says it.
        rank: Of every layer, in place of ``remove``.
        solver: Which rank each layer gets, for least damage under the budget; it may also stay as
            it is.
        score: What a solver takes for damage: ``layer``: what is lost of the layer's result, as a
            part of it; ``output``: of the model's outputs, run with this layer alone re-factored.
        whitened: Whether data say what counts (the Hessian); otherwise all weights count the same
            and nothing is run.
        sequential: Whether a layer is fitted to what it reads behind those that are re-factored
            already; otherwise to what it read before.
        make_up: How far a layer also makes up for what was lost before it, from 0 to 1, or the
            share that is best on held-out rows.
        damping: Of the Hessian, as a part of its mean diagonal.
        steps: Of descent on the layer's error, from the fit: for all forms but low rank, whose fit
            is the best.
        latency: The time by ranks: measured on a target (``RankTimes.on``), or modelled.
        larger: Re-factor even where that takes more of what is limited.
    """

    form: Form = field(default_factory=LowRank)
    remove: float = 0.3
    of: Limited = "parameters"
    rank: int | None = None
    solver: Solver | None = None
    score: Score = "layer"
    whitened: bool = True
    sequential: bool = True
    make_up: MakeUp = "held-out"
    damping: float = 0.01
    steps: int = 0
    latency: Latency | None = None
    larger: bool = False
    what: ClassVar[str] = "a linear layer or convolution with a weight of its own"
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def __post_init__(self) -> None:
        if not isinstance(self.form, Form):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(
                f"{self.form!r} is no form of weights",
                do="a form, such as LowRank(), Monarch() or TensorTrain(); the part that is to go "
                "is remove=0.3",
            )
        check_part(self.remove)
        check_kinds(self, solver=Solver | None, latency=Callable | None)
        check_numbers(
            self, rank=COUNT | None, make_up=SHARE | "held-out", damping=AMOUNT, steps=SOME
        )
        check_known([self.of], (*get_args(Measure), "latency"), "budget of")
        check_known([self.score], get_args(Score), "score")
        if self.rank is not None and self.solver is not None:
            raise InputError("a solver chooses ranks, and rank says them", do="give one of the two")
        if self.of == "latency" and (self.latency is None or self.solver is None):
            raise InputError(
                "a budget of latency needs to know it, and a solver that finds ranks within it",
                do="latency=RankTimes.on(target, graph, inputs, form) and "
                "solver=DynamicProgramming()",
            )
        if self.solver is not None and not self.whitened:
            raise InputError(
                "a solver needs to know what is lost, and whitened=False runs nothing",
                do="whitened=True, or no solver",
            )

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        before = Costs(graph, [], context.inputs)
        layers, remarks = self.layers(graph, asked)
        factoring = Factoring(
            graph,
            context,
            self.name,
            self.form,
            sequential=self.sequential,
            make_up=self.make_up,
            damping=self.damping,
            steps=self.steps,
        )
        ranks = self._ranks(factoring, layers, before, remarks)
        if not ranks:
            return remarks
        found = factoring.run(ranks) if self.whitened else factoring.plain(ranks)
        for layer, factored in found.items():
            remarks.append(self._replace(graph, layer, factored))
        graph.prune()
        after = Costs(graph, [], context.inputs).both()
        text, chosen = f"{len(found)} layers", {at.node.name: rank for at, rank in ranks.items()}
        latency = None
        if self.latency is not None and self.of == "latency":
            latency = self.latency({}), self.latency(chosen)
        told = spared(graph, before.both(), after, first=text, latency=latency, ranks=chosen)
        return [*remarks, told]

    # -- which layers, and of which rank ---------------------------------------------------------

    def layers(self, graph: Graph, asked: Asked) -> tuple[list[Layer], list[Remark]]:
        """Those that can have the form, and why others cannot."""
        found: list[Layer] = []
        remarks: list[Remark] = []
        for node in graph.nodes:
            if not weighted(node) or not asked(node):
                continue
            layer = Layer.of(node)
            if reason := self._refused(node, layer, asked):
                remarks.append(missed(node, reason))
            elif layer is not None:
                found.append(layer)
        return found, remarks

    def _refused(self, node: Node, layer: Layer | None, asked: Asked) -> str:
        """Why a layer stays as it is; empty where it does not."""
        weight: Node = node.args[1]
        if sentence := asked.protected(node, weight):
            return sentence
        if weight.op != "param":
            return f"{weight.name} is stored as codes"
        if others := [user.name for user in weight.users if user is not node]:
            return f"{weight.name} is also read by {', '.join(others)}"
        if node.op != "linear" and not self.form.convolves:
            return f"{self.form} stands for no convolution; LowRank does"
        if layer is None:
            return "its channels fall into groups, or its kernel reads too many numbers"
        return self.form.refused(layer.outputs, layer.inputs)

    def _ranks(
        self, factoring: Factoring, layers: Sequence[Layer], costs: Costs, remarks: list[Remark]
    ) -> dict[Layer, int]:
        fitting = [layer for layer in layers if self._is_smaller(layer, remarks)]
        if self.solver is None or not fitting:
            return {
                layer: min(self._rank(layer), self.form.most(layer.outputs, layer.inputs))
                for layer in fitting
            }
        ranks = allocate(factoring, fitting, self.solver, self._offer(fitting, costs), self.score)
        stay = [layer for layer in fitting if layer not in ranks]
        remarks += [missed(layer.node, "all of it is worth more") for layer in stay]
        return ranks

    def _offer(self, layers: Sequence[Layer], costs: Costs) -> Offer:
        """What a solver may choose from."""
        if self.of == "latency":
            assert self.latency is not None
            return Offer.timed(self.latency, layers, self.remove)
        times = {
            layer: costs.of([layer.node]) // layer.size if self.of == "macs" else 1
            for layer in layers
        }
        return Offer.counted(self.form, times, self.of, self.remove)

    @property
    def _counted(self) -> Measure:
        """What is counted of a form, of which more takes longer."""
        return "macs" if self.of == "latency" else self.of

    def _rank(self, layer: Layer) -> int:
        if self.rank is not None:
            return self.rank
        room = whole((1 - self.remove) * layer.size)
        return self.form.rank_within(layer.outputs, layer.inputs, room, self._counted)

    def _is_smaller(self, layer: Layer, remarks: list[Remark]) -> bool:
        """Whether the form would take less than the layer; if not, that is remarked."""
        least = self.rank or (1 if self.solver else max(1, self._rank(layer)))
        least = min(least, self.form.most(layer.outputs, layer.inputs))
        count = self.form.cost(layer.outputs, layer.inputs, least, self._counted)
        room = layer.size - 1
        if not (self.rank or self.solver):
            room = whole((1 - self.remove) * layer.size)
        if count <= room or self.larger:
            return True
        what, whose = COUNTED[self._counted], "the layer"
        a_row = " a row"
        if self.of == "parameters":
            whose, a_row = "the weight", ""
        text = f"{self.form} of rank {least} has {count:,} {what}{a_row}, {whose} {layer.size:,}"
        remarks.append(missed(layer.node, text, self._most(layer)))
        return False

    def _most(self, layer: Layer) -> str:
        """The greatest rank, or part that goes, with which a layer gets smaller; in words."""
        fewer = self.form.rank_within(layer.outputs, layer.inputs, layer.size - 1, self._counted)
        if not fewer:
            return "another form"
        if self.rank is not None:
            return f"rank={fewer}, at most, for {layer.node.name}"
        count = self.form.cost(layer.outputs, layer.inputs, 1, self._counted)
        return f"remove={at_most(1 - count / layer.size)}, at most, for {layer.node.name}"

    # -- what becomes of a layer -----------------------------------------------------------------

    def _replace(self, graph: Graph, layer: Layer, factored: Factored) -> Remark:
        node, name = layer.node, layer.node.name
        if factored.bias is not None:
            graph.give(node, 2, factored.bias)
        new = self.form.emit(Writer(graph, node), factored.tensors)
        graph.supersede(node, new)
        count = sum(tensor.numel() for tensor in factored.tensors)
        text = f"{self.form} of rank {factored.rank}: {layer.size:,} parameters to {count:,}"
        if factored.lost is not None:
            text += f", {100 * factored.lost:.3g} % of the power of its result lost"
        data = {"rank": factored.rank, "lost": factored.lost, "layer": name}
        return applied(new, "; ".join([text, *factored.notes]), **data)
