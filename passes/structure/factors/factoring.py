"""Fit structured forms to the layers of a graph, one after another, while two streams run: the
exact one, and the one behind what is re-factored already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import torch

from ....ir import Graph, Node, ops
from ....ir.codes import in_kernel_order, out_of_kernel_order
from ....ir.gauge.sites import CONTRACTIONS
from ....ir.interpret import execute
from ...base import Context
from ...budget import Problem, Solver
from ...calibration import as_rows, padding_mask
from ...quantization.evidence import Evidence, MakeUp
from ...quantization.patches import Patches
from ...quantization.simulated import floats, squared_error
from ...quantization.solvers import Hessian
from ...quantization.streams import Compute, Values, Visit, run_streams
from ...shelf import Mapped
from .forms import Form, LowRank, Measure, Tensors, refined

Score: TypeAlias = Literal["layer", "output"]
Limited: TypeAlias = Measure | Literal["latency"]
COUNTED: Mapping[Measure, str] = {"parameters": "parameters", "macs": "products"}
CHOICES = 8  # ranks of a layer, for a solver
BATCHES = 2  # on which the damage at the outputs is measured


class Latency(Protocol):
    """The time of a graph by the ranks of its layers, a sum over these: measured (``RankTimes``) or
    modelled."""

    def offered(self, name: str) -> Sequence[int]:
        """The ranks that a layer, by its name, may be given."""
        ...

    def __call__(self, ranks: Mapping[str, int]) -> float:
        """The time with some layers in these ranks; others are as they are."""
        ...


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear map with weights.

    Attributes:
        node: The op.
        outputs, inputs: The sizes of its weight as a matrix; of a convolution in kernel order.
        patches: What a convolution's kernel reads.
    """

    node: Node
    outputs: int
    inputs: int
    patches: Patches | None = None

    @classmethod
    def of(cls, node: Node) -> Layer | None:
        """``None`` of a convolution that is no matrix."""
        outputs, *inputs = (int(size) for size in node.args[1].shape)
        patches = None if node.op == "linear" else Patches.of(node)
        if patches is None and node.op != "linear":
            return None
        return cls(node, outputs, torch.Size(inputs).numel(), patches)

    @property
    def size(self) -> int:
        """How many weights it has."""
        return self.outputs * self.inputs

    def matrix(self, graph: Graph) -> torch.Tensor:
        """Its weight ``[O, n]``."""
        return in_kernel_order(graph.value(self.node.args[1]))

    def weight(self, matrix: torch.Tensor, graph: Graph) -> torch.Tensor:
        """A matrix in the form and dtype of its weight."""
        old = graph.value(self.node.args[1])
        return out_of_kernel_order(matrix, old.shape).to(old.dtype)

    def rows(self, values: Values, masks: Sequence[torch.Tensor | None]) -> Values:
        """The rows ``[k, n]`` that its matrix is applied to, by batch."""
        count, patches = len(values), self.patches
        if patches is not None:
            return Mapped(lambda i: patches.rows(values[i], count), count)
        axis = CONTRACTIONS[self.node.op]
        return Mapped(lambda i: as_rows(values[i], axis, masks[i]), count)


@dataclass(frozen=True)
class Factored:
    """What stands for a layer.

    Attributes:
        tensors: Of the form.
        bias: A new one.
        lost: The part of the power of its result that is lost, on the calibration data.
        notes: What was out of the ordinary.
    """

    rank: int
    tensors: Tensors
    bias: torch.Tensor | None = None
    lost: float | None = None
    notes: list[str] = field(default_factory=list[str])


class Factoring:
    """Fits a form to layers of a graph, which stays as it is."""

    def __init__(
        self,
        graph: Graph,
        context: Context,
        who: str,
        form: Form,
        *,
        sequential: bool,
        make_up: MakeUp,
        damping: float,
        steps: int,
    ) -> None:
        self.graph, self.context, self.who, self.form = graph, context, who, form
        self.sequential, self.damping, self.steps = sequential, damping, steps
        self.make_up: MakeUp = make_up
        self.masks = [padding_mask(batch) for batch in context.calibration]
        self.known: tuple[Any, Evidence] | None = None  # the last, which other readers share

    def plain(self, ranks: Mapping[Layer, int]) -> dict[Layer, Factored]:
        """The nearest by the weights alone."""
        found: dict[Layer, Factored] = {}
        for layer in self.context.progress(list(ranks), f"{self.who}: fitting"):
            fit = self.form.fit(layer.matrix(self.graph), None, self.damping)
            found[layer] = Factored(ranks[layer], fit(ranks[layer]))
        return found

    def run(self, ranks: Mapping[Layer, int]) -> dict[Layer, Factored]:
        """The nearest by what layers read."""
        layers, found = {layer.node: layer for layer in ranks}, dict[Layer, Factored]()

        def visit(node: Node, exact: Values, now: Values) -> Compute | None:
            layer = layers[node]
            found[layer] = self._fitted(layer, ranks[layer], exact, now)
            return self._compute(layer, found[layer]) if self.sequential else None

        self._stream(layers, visit)
        return found

    def table(
        self, layers: Sequence[Layer], ranks: Sequence[Sequence[int]], score: Score
    ) -> list[list[float]]:
        """What each rank of each layer costs in damage, the others being as they are."""
        found: dict[Node, list[float]] = {}
        offered = {layer.node: (layer, some) for layer, some in zip(layers, ranks, strict=True)}
        batches = self.context.calibration[:BATCHES]
        wanted: list[list[torch.Tensor]] = []
        if score == "output":
            with torch.no_grad():
                wanted = [floats(execute(self.graph, batch)) for batch in batches]

        def visit(node: Node, exact: Values, _: Values) -> None:
            layer, some = offered[node]
            evidence = self._evidence(layer, exact, exact)
            matrix = layer.matrix(self.graph)
            fit = self.form.fit(matrix, evidence.hessian, self.damping)
            found[node] = []
            for rank in some:
                stands = self.form.dense(fit(rank))
                if score == "layer":
                    found[node].append(_lost(matrix, stands, evidence.hessian))
                    continue
                weight = layer.weight(stands, self.graph)

                def read(reader: Node, used: Node, value: Any, w: torch.Tensor = weight) -> Any:
                    return w if reader is node and used is node.args[1] else value

                found[node].append(squared_error(self.graph, batches, wanted, read))

        self._stream(offered, visit)
        return [found[layer.node] for layer in layers]

    def _stream(self, targets: Mapping[Node, Any], visit: Visit) -> None:
        self.known = None
        batches = self.context.need_calibration(self.who)
        places = dict.fromkeys(targets, 0)
        run_streams(self.graph, batches, places, visit, self.context, f"{self.who}: fitting")
        self.known = None

    def _fitted(self, layer: Layer, rank: int, exact: Values, now: Values) -> Factored:
        if not self.sequential:
            now = exact
        evidence = self._evidence(layer, exact, now)
        matrix, hessian = layer.matrix(self.graph), evidence.hessian
        wanted = evidence.aim(matrix, self.make_up)
        tensors = self.form.fit(wanted, hessian, self.damping)(rank)
        if self.steps and hessian is not None and not isinstance(self.form, LowRank):
            tensors = refined(self.form, tensors, wanted, hessian, self.steps)
        stands = self.form.dense(tensors)
        bias = self._bias(layer, evidence, matrix, stands)
        notes: list[str] = []
        if hessian is None:
            notes = [f"fitted to the weights alone: {evidence.count} rows of {layer.inputs}"]
        return Factored(rank, tensors, bias, _lost(wanted, stands, hessian), notes)

    def _bias(
        self, layer: Layer, evidence: Evidence, matrix: torch.Tensor, stands: torch.Tensor
    ) -> torch.Tensor | None:
        """A bias that takes up the mean of what is lost; ``None`` where there is none."""
        bias = layer.node.operand(2)
        if bias is None:
            return None
        was, now = matrix.double(), stands.double()
        shift = was @ evidence.mean_exact.double() - now @ evidence.mean.double()
        old = self.graph.value(bias)
        return (old.double() + shift).to(old.dtype)

    def _evidence(self, layer: Layer, exact: Values, now: Values) -> Evidence:
        """What the rows say, which readers of one value share."""
        biased = layer.node.operand(2) is not None
        key = (layer.node.args[0], layer.patches, biased)
        if self.known is None or self.known[0] != key:
            plain, rows = (layer.rows(values, self.masks) for values in (exact, now))
            drifts = 0
            if self.sequential and self.make_up:
                drifts = 2 if self.make_up == "held-out" else 1
            found = Evidence.of(layer.node.args[0], plain, rows, centered=biased, drifts=drifts)
            self.known = key, found
        return self.known[1]

    def _compute(self, layer: Layer, factored: Factored) -> Compute:
        """How the layer computes once it is re-factored."""
        node = layer.node
        weight = layer.weight(self.form.dense(factored.tensors), self.graph)
        bias = factored.bias

        def compute(data: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return ops.call(node.op, (data, weight, bias), node.attrs)

        return compute


@dataclass(frozen=True)
class Offer:
    """What ranks cost, for a solver.

    Attributes:
        ranks: Of each layer, those that there are.
        costs: Of each layer, that of the layer as it is, and of each rank.
        limit: Of the sum.
        unit: What a cost of 1 is, for messages.
        rest: What all else costs.
    """

    ranks: Sequence[Sequence[int]]
    costs: Sequence[Sequence[float]]
    limit: float
    unit: str
    rest: float = 0.0

    @classmethod
    def counted(cls, form: Form, layers: Mapping[Layer, int], of: Measure, remove: float) -> Offer:
        """Of parameters or products.

        Args:
            layers: How often each one's matrix is applied, where products count; else 1.
            remove: The part of all that goes.
        """
        ranks = [spaced(form, layer, of) for layer in layers]
        costs = [
            [times * c for c in (layer.size, *(_cost(form, layer, rank, of) for rank in some))]
            for (layer, times), some in zip(layers.items(), ranks, strict=True)
        ]
        limit = (1 - remove) * sum(first for first, *_ in costs)
        return cls(ranks, costs, limit, f" {COUNTED[of]}")

    @classmethod
    def timed(cls, latency: Latency, layers: Sequence[Layer], remove: float) -> Offer:
        """Of the time that a table or a model says."""
        names = [layer.node.name for layer in layers]
        ranks, whole = [latency.offered(name) for name in names], latency({})
        changes = [
            [0.0, *(latency({name: rank}) - whole for rank in some)]
            for name, some in zip(names, ranks, strict=True)
        ]
        # A solver is given no negative costs: what all can save is each layer's.
        saved = [-min(some) for some in changes]
        costs = [[c + most for c in some] for some, most in zip(changes, saved, strict=True)]
        return cls(ranks, costs, (1 - remove) * whole, " seconds", whole - sum(saved))


def spaced(form: Form, layer: Layer, of: Measure) -> list[int]:
    """Some ranks of a layer, rising to the last at which the form takes less."""
    top = form.rank_within(layer.outputs, layer.inputs, layer.size - 1, of)
    found = torch.linspace(0, 1, CHOICES + 1)[1:] * top
    return sorted({max(1, int(rank)) for rank in found.round()})


def _cost(form: Form, layer: Layer, rank: int, of: Measure) -> int:
    return form.cost(layer.outputs, layer.inputs, rank, of)


def allocate(
    factoring: Factoring, layers: Sequence[Layer], solver: Solver, offer: Offer, score: Score
) -> dict[Layer, int]:
    """The ranks of those layers that are re-factored, of least damage under a budget."""
    damages = factoring.table(layers, offer.ranks, score)
    columns = 1 + max(map(len, offer.ranks))  # the first: it stays as it is
    damage = torch.full((1 + len(layers), columns), torch.inf, dtype=torch.float64)
    cost = damage.clone()
    damage[:, 0], cost[-1, 0] = 0.0, offer.rest
    for row, (costs, lost) in enumerate(zip(offer.costs, damages, strict=True)):
        damage[row, 1 : 1 + len(lost)] = torch.tensor(lost, dtype=torch.float64)
        cost[row, : len(costs)] = torch.tensor(costs, dtype=torch.float64)
    names = (*(layer.node.name for layer in layers), "all else")
    problem = Problem(names, damage, cost, offer.limit, unit=(offer.unit, 1.0))
    problem.check()
    chosen = solver.solve(problem)[:-1]
    return {
        layer: offer.ranks[row][column - 1]
        for row, (layer, column) in enumerate(zip(layers, chosen, strict=True))
        if column
    }


def _lost(wanted: torch.Tensor, stands: torch.Tensor, hessian: Hessian | None) -> float:
    """The part of a layer's power that is lost; of its weights' where nothing else is known."""
    error = wanted.double() - stands.double()
    if hessian is None:
        return float(error.square().sum() / wanted.double().square().sum().clamp(min=1e-300))
    return float(hessian.cost(error).sum() / hessian.cost(wanted).sum().clamp(min=1e-300))
