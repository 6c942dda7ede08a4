"""Quantize with the choices that do least damage under a budget, or that cost least for a damage.
A choice is a format, zeros of a pattern, or both.

    min over c  of  sum_u D[u, c_u]   such that   sum_u C[u, c_u] <= budget

An allocation is a score (the damage D of each choice of each unit), a cost C, and a solver. Units
are weights with those who read them (``units``). The damage is an estimate: each unit's as if the
others stayed in floating point, and by gradients of first order, by which the coarsest choices seem
less harmful than they are. So what was found is run, simulated, and so is what is found without the
cheapest choices, and the costliest single choice for all that keeps to the budget; the best is
taken: ``Sparsify`` puts the zeros that were chosen, and ``Quantize``, which keeps them, runs behind
it, where any choice makes codes. Approximate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeAlias, TypedDict, get_args

import torch

from ...ir import Graph, InputError, Node
from ...ir.gauge import weighted
from ..base import Context, Pass, Promise, Remark, Stage, decided
from ..budget import Assignment, IntegerProgramming, Problem, Solver
from ..options import NUMBER, check_kinds, check_known, check_numbers, check_several
from ..quantization.choices import CHANNELWISE, Choice
from ..quantization.quantize import Quantize
from ..structure.sparsity.sparsify import Sparsify
from .candidates import Candidates
from .gradient import Gradient
from .score import Score
from .units import By, Unit, listed, nothing, numel, of_readers, units, weight_of

Kind: TypeAlias = Literal["bits", "bytes", "mac_bits", "latency", "damage"]
Latency: TypeAlias = Mapping[str, Mapping[Choice, float]]

BATCHES = 4  # on which what was found is measured


@dataclass(frozen=True)
class Budget:
    """What must not be exceeded.

    Args:
        limit: A number of:
        of: ``bits``: of a weight on average, with scales and zero points as they are stored, and
            without chosen zeros, as storage has them that leaves zeros out (``ir.sparse``);
            ``bytes``, of all weights together; ``mac_bits``: of a weight, on average over the
            products it takes part in; ``latency``: of a table's unit; ``damage``: as the score
            estimates it, or a solver measures it, with as few bits as possible.
    """

    limit: float
    of: Kind = "bits"

    def __post_init__(self) -> None:
        check_numbers(self, limit=NUMBER)
        check_known([self.of], get_args(Kind), "budget of")


class _Counted(TypedDict):
    """Which weights count; as ``units`` takes it."""

    least: int
    embeddings: bool
    settled: Iterable[str]


@dataclass(frozen=True)
class Allocate(Pass):
    """Choose formats reader by reader, and quantize.

    Args:
        choices: What to choose from: formats, with the activations of ``quantize``, or choices.
        budget: What to keep to; a number is one of bits on average.
        score: The damage that is expected.
        solver: What finds the choices.
        quantize: How it is then done, and with all that nothing is chosen for. Its own choices
            stay.
        by: What is decided together: the readers of one weight, of one value, or of a repeated
            block.
        latency: For a budget of latency: what each choice takes, by the names of readers.
        sparsify: How zeros are put, of choices that have some; which, these say, so it has no
            pattern, part or rates of its own.
    """

    choices: tuple[str | Choice, ...]
    budget: Budget | float
    score: Score = field(default_factory=Gradient)
    solver: Solver = field(default_factory=IntegerProgramming)
    quantize: Quantize = field(default_factory=lambda: Quantize(None))
    by: By = "weight"
    latency: Latency = field(default_factory=dict[str, Mapping[Choice, float]])
    sparsify: Sparsify = field(default_factory=Sparsify)
    promise: ClassVar[Promise] = Promise.APPROXIMATE
    stage: ClassVar[Stage] = Stage.QUANTIZE

    def __post_init__(self) -> None:
        check_several(self.choices, "choices", Choice())
        if wrong := [one for one in self.choices if type(one) not in (str, Choice)]:
            raise InputError(
                f"{wrong[0]!r} is no choice",
                do="a format such as 'int4-g64', or Choice('int8-g64')",
            )
        if not isinstance(self.budget, Budget):
            check_numbers(self, budget=NUMBER)
        check_known([self.by], get_args(By), "unit, by the")
        check_kinds(self, score=Score, solver=Solver, quantize=Quantize, latency=Mapping)
        check_kinds(self, sparsify=Sparsify)
        given = (self.sparsify.pattern, self.sparsify.remove, self.sparsify.rates)
        if given != (Sparsify.pattern, Sparsify.remove, Sparsify.rates):
            raise InputError(
                "which zeros there are is said by the choices of Allocate, not by its Sparsify",
                do="Choice('int8-channel', zeros='2:4') or zeros='rows-0.5' among the choices, and "
                "pattern, remove and rates left out of sparsify",
            )

    @property
    def formats(self) -> tuple[str, ...]:
        chosen = (choice.weights for choice in self.offers)
        own = (name for name in chosen if name is not None and name != CHANNELWISE)
        # What Quantize says of all is not used by those that something is chosen for.
        rest = replace(self.quantize, weights=CHANNELWISE).formats
        return tuple(dict.fromkeys((*own, *rest)))

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        found = self.units(graph)
        if not found:
            raise nothing(graph, **self._counted)
        candidates = Candidates.of(graph, context, found, self.offers, self.sparsify)
        chosen, measured, predicted = context.journal.once(
            "choices", lambda: self._chosen(candidates)
        )
        picked = [candidates.choices[index] for index in chosen]
        choices = dict(of_readers(found, picked))
        for reader in self._left(graph, found):
            choices[reader.name] = Choice(None, None)
        damage = f"{self.score.name} expects a damage of {predicted:.3g}"
        if measured and min(measured) < measured[0]:
            damage += (
                f"; measured, it does {min(measured):.3g}, and what was expected to do least "
                f"{measured[0]:.3g}"
            )
        remark = self._remark(graph, found, picked, damage, predicted)
        zeros = self._put_zeros(graph, context, found, picked)
        if all(choice.in_floats for choice in self.offers):
            return [remark, *zeros]
        quantize = replace(self.quantize, choices={**choices, **self.quantize.choices})
        return [remark, *zeros, *quantize.run(graph, context)]

    def _put_zeros(
        self, graph: Graph, context: Context, found: Sequence[Unit], picked: Sequence[Choice]
    ) -> list[Remark]:
        """The zeros that were chosen; codes then keep them."""
        patterns = {
            weight.name: choice.zeros
            for unit, choice in zip(found, picked, strict=True)
            for weight in unit.weights
            if choice.zeros is not None
        }
        if not patterns:
            return []
        part = replace(self.sparsify, pattern=patterns, remove=None)
        return part.run(graph, replace(context, journal=context.journal.inside("zeros")))

    def _chosen(self, candidates: Candidates) -> tuple[list[int], list[float], float]:
        """A choice for each unit, the damages measured of all that were tried (the first is that
        of what was expected to do least), and the damage predicted."""
        problem = self.problem(candidates)
        tried = self._tried(problem, candidates)
        if len(tried) == 1:
            return tried[0], [], float(problem.predicted(tried[0]))
        measure = self._measure(candidates, BATCHES)
        measured = [measure(one) for one in tried]
        chosen = tried[measured.index(min(measured))]
        return chosen, measured, float(problem.predicted(chosen))

    # -- the problem ----------------------------------------------------------------------------

    def units(self, graph: Graph) -> list[Unit]:
        """What there is to choose for."""
        return units(graph, by=self.by, **self._counted)

    def problem(self, candidates: Candidates) -> Problem:
        """What the solver is given."""
        damages = self.score.damages(candidates)
        cost, unit = self._costs(candidates)
        budget = self._budget
        limited = "damage" if budget.of == "damage" else "cost"
        limit = budget.limit * (unit[1] if limited == "cost" else 1.0)
        names = tuple(found.name for found in candidates.units)
        projections = damages.projections
        every = len(candidates.context.calibration)
        measure = self._measure(candidates, every) if limited == "damage" else None
        why = self._why(candidates) if limited == "cost" else ""
        return Problem(names, damages.damage, cost, limit, limited, unit, projections, measure, why)

    def _why(self, candidates: Candidates) -> str:
        """What keeps costs from being less: layers that no choice fits, and what does not count."""
        told: list[str] = []
        pairs = zip(candidates.units, candidates.unfit.tolist(), strict=True)
        if stuck := [unit for unit, unfit in pairs if unfit]:
            size, whole = (sum(u.size for u in some) for some in (stuck, candidates.units))
            readers = [unit.readers[0] for unit in stuck]
            groups = all(r.op in ("linear", "embedding") for unit in stuck for r in unit.readers)
            told.append(
                f"none of the choices fits {size:,} of the {whole:,} weights that count, those of "
                f"{listed(readers)}"
                + ("" if groups else ": groups of codes are for linear layers and tables")
            )
        known = {weight for unit in candidates.units for weight in unit.weights}
        small = {weight_of(unit.readers[0]) for unit in units(candidates.graph)} - known
        if small := [weight for weight in small if numel(weight) < self.quantize.least]:
            count = sum(map(numel, small))
            told.append(
                f"{count:,} others do not count, in weights of fewer than "
                f"least={self.quantize.least} elements"
            )
        return "; ".join(told)

    def solve(self, problem: Problem) -> Assignment:
        """The choices; raises ``InputError`` where no choices keep to the budget."""
        if problem.measure is None or not self.solver.measures:
            problem.check()
        return self.solver.solve(problem)

    def _tried(self, problem: Problem, candidates: Candidates) -> list[Assignment]:
        """The solver's assignment, and, where there is data to compare them on, that with the
        cheapest choices left out, one more each time, as long as the budget can be kept to; and
        the costliest single choice for all that keeps to it."""
        tried = [self.solve(problem)]
        if problem.limited == "damage" or not candidates.context.calibration:
            return tried
        left = problem
        for cheapest in problem.cheapest_first[:-1]:
            left = left.without(cheapest)
            if not left.keeps(left.least):
                break
            tried.append(self.solve(left))
        whole = [c for c in range(len(candidates.choices)) if bool(candidates.offered[:, c].all())]
        even = [[c] * len(candidates.units) for c in whole]
        even = [one for one in even if problem.keeps(one)]
        if even:
            tried.append(max(even, key=lambda one: problem.total(problem.cost, one)))
        return [one for at, one in enumerate(tried) if one not in tried[:at]]

    def _costs(self, candidates: Candidates) -> tuple[torch.Tensor, tuple[str, float]]:
        """The cost of each choice of each unit, and the unit of sums with its size."""
        found, kind = candidates.units, self._budget.of
        size, macs = (sum(getattr(unit, name) for unit in found) for name in ("size", "macs"))
        price: Callable[[Unit, Choice], float]
        match kind:
            case "bits" | "damage":
                price, unit = (lambda u, c: 8.0 * u.nbytes(c)), (" bits", float(size))
            case "bytes":
                price, unit = (lambda u, c: float(u.nbytes(c))), (" bytes", 1.0)
            case "mac_bits":
                price = lambda u, c: u.macs * u.bits(c)  # noqa: E731
                unit = (" bits a product", float(max(macs, 1)))
            case "latency":
                price, unit = self._latency, ("", 1.0)
        cost = torch.full(candidates.offered.shape, torch.inf, dtype=torch.float64)
        for row, one in enumerate(found):
            for column, choice in candidates.options(row):
                cost[row, column] = price(one, choice)
        return cost, unit

    def _latency(self, unit: Unit, choice: Choice) -> float:
        total = 0.0
        for reader in unit.readers:
            try:
                total += self.latency[reader.name][choice]
            except KeyError:
                raise InputError(
                    f"the table of latencies has none of {reader.name} in {choice}",
                    do="give latency={name: {choice: time}} for every reader of weights",
                ) from None
        return total

    def _measure(self, candidates: Candidates, most: int) -> Callable[[Assignment], float]:
        """The damage of an assignment, run on so many calibration batches."""
        batches = candidates.batches(self.name, most)
        wanted = candidates.exact(batches)

        def measure(chosen: Sequence[int]) -> float:
            readers = {
                reader: candidates.choices[index]
                for unit, index in zip(candidates.units, chosen, strict=True)
                for reader in unit.readers
            }
            return candidates.damage(readers, batches, wanted)

        return measure

    # -- what is said of it ---------------------------------------------------------------------

    def _remark(
        self,
        graph: Graph,
        found: Sequence[Unit],
        picked: Sequence[Choice],
        says: str,
        damage: float,
    ) -> Remark:
        size = sum(unit.size for unit in found)
        total = sum(unit.nbytes(choice) for unit, choice in zip(found, picked, strict=True))
        counts: dict[str, int] = {}
        for unit, choice in zip(found, picked, strict=True):
            counts[_label(choice)] = counts.get(_label(choice), 0) + unit.size
        parts = ", ".join(f"{name} {100 * n / size:.3g} %" for name, n in sorted(counts.items()))
        data: dict[str, Any] = {
            "bits": 8 * total / size,
            "bytes": total,
            "damage": damage,
            "choices": {
                reader.name: _label(choice)
                for unit, choice in zip(found, picked, strict=True)
                for reader in unit.readers
            },
            "preparation": True,
        }
        text = f"{8 * total / size:.4g} bits a weight on average ({parts}); {says}"
        return decided(graph, text, **data)

    # -- options --------------------------------------------------------------------------------

    @property
    def _budget(self) -> Budget:
        return self.budget if isinstance(self.budget, Budget) else Budget(float(self.budget))

    @property
    def offers(self) -> list[Choice]:
        """What each reader may be given, where it fits."""
        kind = self.quantize.activations
        return [Choice(c, kind) if isinstance(c, str) else c for c in self.choices]

    @property
    def _counted(self) -> _Counted:
        return {
            "least": self.quantize.least,
            "embeddings": self._with_tables,
            "settled": self.quantize.choices,
        }

    @property
    def _with_tables(self) -> bool:
        return self.quantize.embeddings and self.quantize.tables is None

    def _left(self, graph: Graph, found: Sequence[Unit]) -> list[Node]:
        """Readers whose weights are too small, or shared in ways that codes are not."""
        known = {reader for unit in found for reader in unit.readers}
        known |= {node for node in graph.nodes if node.name in self.quantize.choices}
        tables = {weight_of(n) for n in graph.nodes if n.op == "embedding"}
        return [
            node
            for node in graph.nodes
            if weighted(node)
            and node not in known
            and not (self.quantize.embeddings and weight_of(node) in tables)
        ]


def _label(choice: Choice) -> str:
    parts = (choice.weights or "float", choice.zeros, choice.activations)
    return " ".join(part for part in parts if part is not None)
