"""Leave whole layers out: attentions, feed-forward networks, blocks, operators of their own.

    layers (what can go)  ->  score (what each is worth)  ->  which stay, under a budget  ->  the
    last map before a gap makes up for it

Scores and ways to choose are those of published methods in any combination: the similarity of what
goes in and comes out, one after another by the change of the model's outputs (A82), or at once
(A92), as a knapsack (A99), by statistics of the outputs or of what a sampler makes (A68), by place
alone: with ``kinds=("block",)`` and ``score="position"`` the first k blocks stay, with the norm and
the head behind the last.

**Making up.** Where layers are left out behind an addition ``x + b``, b the result of a linear map
or a convolution, or behind that itself, it is followed by the T over channels with which
``x + T b`` is nearest to what came out behind the layers, by least squares, held to the identity by
the damping; T goes into its weights. What others read as it is stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

import torch

from ....ir import Graph, InputError
from ...base import Context, Promise, Remark, Stage, applied, missed
from ...budget import Problem, Solver
from ...options import (
    AMOUNT,
    check_kinds,
    check_known,
    check_numbers,
    check_several,
    named,
)
from ...sites import Asked, SparingPass
from ..costs import Costs
from ..options import at_most, check_part, spared
from .bridging import bridge
from .layer_scores import SCORES, LayerScore
from .layers import LAYER_KINDS, Layer, LayerKind, apart, asked_for, layers, of_copy, without

Measure: TypeAlias = Literal["layers", "parameters", "macs", "latency"]
# The time of the whole without some layers, by name, none of which lies in another.
Latency: TypeAlias = Callable[[Collection[str]], float]


@dataclass(frozen=True)
class DropLayers(SparingPass):
    """Leave out the layers that are worth least.

    Args:
        remove: The part that is to go, between 0 and 1, of:
        of: ``layers``: of their number; ``parameters`` or ``macs``: of all of the graph's;
            ``latency``: of the time that ``latency`` says.
        kinds: Which may go (``layers``).
        score: What a layer is worth (``layer_scores``), or a score's name.
        greedy: Score anew after each layer that went, by the model without it; under a budget of
            anything but layers, by what a layer adds to the loss for what it saves of that.
        solver: Which layers go, for least damage under the budget; the least first where there is
            none.
        recover: Whether what stays before a gap makes up for it.
        damping: Of the least squares, as a part of the mean square of what is read.
        latency: Measured (``LayerTimes``), or modelled.
    """

    remove: float = 0.25
    of: Measure = "layers"
    kinds: tuple[LayerKind, ...] = ("attention", "feedforward")
    score: LayerScore | str = "similarity"
    greedy: bool = False
    solver: Solver | None = None
    recover: bool = True
    damping: float = 0.1
    latency: Latency | None = None
    what: ClassVar[str] = "a layer that others could do without, or what it gives"
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.STRUCTURE

    def __post_init__(self) -> None:
        check_part(self.remove)
        check_kinds(self, solver=Solver | None, latency=Callable | None)
        check_numbers(self, damping=AMOUNT)
        named(self.score, SCORES, "score", LayerScore)
        check_several(self.kinds, "kinds", LAYER_KINDS[0])
        check_known(self.kinds, LAYER_KINDS, "kind of layers")
        check_known([self.of], get_args(Measure), "budget of")
        if self.greedy and self.solver is not None:
            raise InputError(
                "greedy=True takes one layer after another: it has no use of a solver",
                do="greedy=True, or a solver",
            )
        if self.of == "latency" and self.latency is None:
            raise InputError(
                "a budget of latency needs to know it",
                do="latency=LayerTimes.on(target, graph, inputs, kinds), or a function of the "
                "names of layers that are left out",
            )

    def visit(self, graph: Graph, context: Context, asked: Asked) -> list[Remark]:
        costs = Costs(graph, [], context.inputs)
        every = layers(graph, self.kinds, costs)
        if not every:
            text = f"it has no {' or '.join(self.kinds)} that others could do without"
            return [missed(graph.output, text)]
        found, remarks = asked_for(every, asked)
        if not found or not self.remove:
            return remarks
        whole = costs.both()
        excess = self._budget(found, whole)
        gone, scores = (self._greedily if self.greedy else self._at_once)(
            graph, found, excess, context
        )
        self._need_some(gone, found, every, whole)
        exact = graph.copy()
        stands = without(graph, gone)
        bridges: dict[str, str] = {}
        if self.recover:
            bridges = bridge(graph, stands, exact, context, self.damping, self.name, asked)
        for layer in (layer for layer in found if layer in gone):
            by, worth = stands[layer.value], f"worth {scores[layer.name]:.3g}"
            made_up = f"; {bridges[by.name]}" if by.name in bridges else ""
            remarks.append(applied(by, f"{layer.kind} {layer.name} left out, {worth}{made_up}"))
        after, latency = Costs(graph, [], context.inputs).both(), self._latencies(gone)
        text = f"{len(gone)} of {len(found)} layers go"
        names = [layer.name for layer in gone]  # in the order in which they went
        told = spared(graph, whole, after, first=text, latency=latency, gone=names, scores=scores)
        return [*remarks, told]

    # -- which go -------------------------------------------------------------------------------

    def _weight(self, layer: Layer) -> float:
        match self.of:
            case "layers":
                return 1.0
            case "parameters":
                return float(layer.parameters)
            case "macs":
                return float(layer.macs)
            case "latency":
                return max(self._time([]) - self._time([layer]), 0.0)

    def _time(self, gone: Sequence[Layer]) -> float:
        """The time without some layers, none of which lies in another."""
        assert self.latency is not None
        return self.latency([layer.name for layer in gone])

    def _latencies(self, gone: Sequence[Layer]) -> tuple[float, float] | None:
        """The time before and after, where that is limited."""
        if self.of != "latency":
            return None
        return self._time([]), self._time(_outermost(gone))

    def _total(self, gone: Sequence[Layer], found: Sequence[Layer]) -> float:
        """How much goes with some layers, with what lies in them, each once."""
        if self.of == "layers":
            return sum(any(_goes(layer, other) for other in gone) for layer in found)
        if self.of == "latency":
            return self._time([]) - self._time(_outermost(gone))
        return sum(map(self._weight, _outermost(gone)))

    def _all(self, found: Sequence[Layer], whole: tuple[int, int]) -> float:
        """What the part that is to go is one of."""
        match self.of:
            case "layers":
                return len(found)
            case "parameters":
                return whole[0]
            case "macs":
                return whole[1]
            case "latency":
                return self._time([])

    def _budget(self, found: Sequence[Layer], whole: tuple[int, int]) -> float:
        """How much has to go."""
        total = self._all(found, whole)
        most = self._total(found, found)
        if self.remove * total > most * (1 + 1e-9):
            raise InputError(
                f"{100 * self.remove:.3g} % of the {self.of} cannot be removed: all layers that "
                f"can go have {100 * most / total:.3g} %",
                do=f"less than remove={at_most(most / total)}, with which all of them go, or let "
                "other kinds of layers go",
            )
        return self.remove * total

    def _need_some(
        self,
        gone: Sequence[Layer],
        found: Sequence[Layer],
        every: Sequence[Layer],
        whole: tuple[int, int],
    ) -> None:
        """Raise where nothing stays of what could go, asked for or not."""
        if not all(any(_goes(layer, other) for other in gone) for layer in every):
            return
        *others, last = sorted(gone, key=self._weight, reverse=True) if self.solver else gone
        total = self._all(found, whole)
        raise InputError(
            f"remove={self.remove} leaves out all {len(every)} layers that can go "
            f"({', '.join(self.kinds)})",
            where=last.value.at,
            do=f"remove={at_most(self._total(others, found) / total)}, at most, with which "
            f"{last.name} stays",
        )

    def _at_once(
        self, graph: Graph, found: Sequence[Layer], excess: float, context: Context
    ) -> tuple[list[Layer], dict[str, float]]:
        worth = self._score.of(graph, found, context)
        scores = {layer.name: float(s) for layer, s in zip(found, worth, strict=True)}
        if self.solver is not None:
            return self._solved(found, worth, excess), scores
        gone: list[Layer] = []
        for layer in sorted(found, key=lambda layer: scores[layer.name]):
            if self._total(gone, found) >= excess * (1 - 1e-9):
                break
            if not any(_goes(layer, other) for other in gone):
                gone.append(layer)
        if self._total(gone, found) < excess * (1 - 1e-9):
            raise self._nothing_left(gone)
        return gone, scores

    def _solved(self, found: Sequence[Layer], worth: torch.Tensor, excess: float) -> list[Layer]:
        """Those that the solver lets go: of layers that lie in each other at most one."""
        assert self.solver is not None
        units = apart(found)
        most = max(map(len, units))
        place = {layer: index for index, layer in enumerate(found)}
        damage = torch.full((len(units), 1 + most), torch.inf, dtype=torch.float64)
        cost = damage.clone()
        for unit, (losses, left) in zip(units, zip(damage, cost, strict=True), strict=True):
            whole = max(map(self._weight, unit))
            losses[0], left[0] = 0.0, whole
            for choice, layer in enumerate(unit, start=1):
                losses[choice] = worth[place[layer]].clamp(min=0)
                left[choice] = whole - self._weight(layer)
        names = tuple(unit[0].name for unit in units)
        problem = Problem(names, damage, cost, float(cost[:, 0].sum()) - excess)
        chosen = self.solver.solve(problem)
        return [unit[choice - 1] for unit, choice in zip(units, chosen, strict=True) if choice]

    def _greedily(
        self, graph: Graph, found: Sequence[Layer], excess: float, context: Context
    ) -> tuple[list[Layer], dict[str, float]]:
        gone: list[Layer] = []
        scores: dict[str, float] = {}
        worth = 0.0
        while self._total(gone, found) < excess * (1 - 1e-9):
            trial = graph.copy()
            without(trial, of_copy(trial, gone))
            left = {
                layer.name: layer
                for layer in layers(trial, self.kinds, Costs(trial, [], context.inputs))
            }
            mine = [layer for layer in found if layer.name in left and layer not in gone]
            if not mine:
                raise self._nothing_left(gone)
            least, worth = self._least(trial, [left[n.name] for n in mine], context, graph, worth)
            scores[mine[least].name] = worth
            gone.append(mine[least])
        return gone, scores

    def _least(
        self,
        graph: Graph,
        some: Sequence[Layer],
        context: Context,
        whole: Graph,
        before: float,
    ) -> tuple[int, float]:
        """Which layer is to go next, and what the model loses with it and those before."""
        if self.of == "layers":
            return self._score.least(graph, some, context, whole)
        worth = self._score.of(graph, some, context, whole)
        weights = torch.tensor([self._weight(layer) for layer in some], dtype=torch.float64)
        tiny = float(weights.max()) * 1e-9 or 1.0
        least = int(((worth - before) / weights.clamp(min=tiny)).argmin())
        return least, float(worth[least])

    def _nothing_left(self, gone: Sequence[Layer]) -> InputError:
        return InputError(
            f"nothing is left to go after {', '.join(layer.name for layer in gone)}",
            do="remove less, or let other kinds of layers go",
        )

    @property
    def _score(self) -> LayerScore:
        return named(self.score, SCORES, "score", LayerScore)


def _outermost(gone: Sequence[Layer]) -> list[Layer]:
    """Those of some layers that lie in no other."""
    return [layer for layer in gone if not any(layer.nodes < other.nodes for other in gone)]


def _goes(layer: Layer, other: Layer) -> bool:
    """Whether a layer is gone once another one is."""
    return layer.value is other.value or layer.nodes <= other.nodes
