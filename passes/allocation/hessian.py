"""The curvature of the loss by each unit's weights: its trace (Hutchinson), or its greatest
eigenvalue (power iteration; A41, F9.9).

The loss is that of leaving the model as it is: half of ``|f(x; W) - f(x; W_0)|^2``, or the
divergence of the distributions that logits stand for. At W_0 its Hessian is ``H = J' M J``, with
``M = I``, or ``diag(p) - p p'``: no second derivative of the model is in it. So

    tr H_u = E_r |J_u' r|^2,  E r r' = M               H_u v = J_u' M (J_u v)

with ``J v`` as the difference of two runs. The damage of an error e is ``tr(H_u) / n |e|^2``, as if
it had no direction; or ``lambda |e|^2``, as if it had the worst.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch

from ...ir import Graph
from ...ir.interpret import execute
from ..options import COUNT, check_known, check_numbers
from ..probes import Metric, power, seeds
from ..quantization.simulated import floats
from .candidates import Candidates
from .score import Damages, Score, squared_errors

STEP = 1e-2  # of the norm of the weights: what J v is the difference over


Of: TypeAlias = Literal["trace", "eigenvalue"]


@dataclass(frozen=True)
class Hessian(Score):
    """Damage by the curvature.

    Args:
        of: ``trace`` (all units by one run for each probe), or ``eigenvalue``.
        probes: For the trace, of each batch.
        iterations: For the eigenvalue, of each unit.
        batches: At most so many of the calibration batches.
        metric: ``error`` of the outputs, or ``likelihood``, where they are logits.
    """

    of: Of = "trace"
    probes: int = 8
    iterations: int = 8
    batches: int = 2
    metric: Metric = "error"

    def __post_init__(self) -> None:
        check_numbers(self, probes=COUNT, iterations=COUNT, batches=COUNT)
        check_known([self.of], get_args(Of), "measure of curvature")
        check_known([self.metric], get_args(Metric), "metric")

    def damages(self, candidates: Candidates) -> Damages:
        curvature = self.traces(candidates) if self.of == "trace" else self.eigenvalues(candidates)
        sizes = torch.tensor([float(unit.size) for unit in candidates.units]).double()
        factor = curvature / sizes if self.of == "trace" else curvature
        return Damages(factor[:, None] * squared_errors(candidates))

    def traces(self, candidates: Candidates) -> torch.Tensor:
        """``tr H_u`` of each unit, by what damages are divided by."""
        curvature = _Curvature(candidates, self)
        names = [weight.name for unit in candidates.units for weight in unit.weights]
        generator = candidates.context.generator()
        total = torch.zeros(len(candidates.units), dtype=torch.float64)
        runs = [batch for batch in curvature.batches for _ in range(self.probes)]
        for batch in candidates.context.progress(runs, f"{self.name}: probing"):
            slopes = curvature.slopes(
                batch, names, lambda outputs: seeds(outputs, self.metric, generator)
            )
            for row, unit in enumerate(candidates.units):
                total[row] += sum(
                    float(slopes[weight.name].double().square().sum()) for weight in unit.weights
                )
        return total / (self.probes * curvature.power)

    def eigenvalues(self, candidates: Candidates) -> torch.Tensor:
        """The greatest eigenvalue of each unit's block of the Hessian, likewise."""
        curvature = _Curvature(candidates, self)
        generator = candidates.context.generator()
        found = torch.zeros(len(candidates.units), dtype=torch.float64)
        units = list(enumerate(candidates.units))
        for row, unit in candidates.context.progress(units, f"{self.name}: iterating"):
            store = candidates.graph.store
            vector = {
                weight.name: torch.randn(store[weight.name].shape, generator=generator)
                for weight in unit.weights
            }
            for _ in range(self.iterations):
                size = _norm(vector)
                if size == 0:
                    break
                unit_vector = {name: part / size for name, part in vector.items()}
                vector = curvature.product(unit_vector)
                found[row] = sum(
                    float((vector[name] * part).double().sum())
                    for name, part in unit_vector.items()
                )
        return found / curvature.power


class _Curvature:
    """The Hessian of the loss over some batches, as what it makes of vectors."""

    def __init__(self, candidates: Candidates, options: Hessian) -> None:
        self.graph: Graph = candidates.graph
        self.metric: Metric = options.metric
        self.batches = candidates.batches(options.name, options.batches)
        with torch.no_grad():
            outputs = [execute(self.graph, batch) for batch in self.batches]
        self.power = max(sum(power(found, self.metric) for found in outputs), 1e-30)

    def slopes(self, batch: Sequence[Any], names: Sequence[str], direction: Any) -> dict[str, Any]:
        """``J' r`` by parameters, for the direction that is made of the outputs."""
        params = {name: self.graph.store[name].detach().requires_grad_() for name in names}
        with torch.enable_grad():
            outputs = execute(self.graph, batch, params=params)
            found: tuple[Any, ...] = torch.autograd.grad(
                floats(outputs), list(params.values()), direction(outputs), allow_unused=True
            )
        return {
            name: torch.zeros_like(params[name]) if slope is None else slope
            for name, slope in zip(params, found, strict=True)
        }

    def product(self, vector: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """``H v``."""
        total = {name: torch.zeros_like(part) for name, part in vector.items()}
        for batch in self.batches:
            moved = self._moved(batch, vector)
            slopes = self.slopes(
                batch, list(vector), lambda outputs, moved=moved: self._weighed(outputs, moved)
            )
            for name, slope in slopes.items():
                total[name] += slope
        return total

    def _moved(self, batch: Sequence[Any], vector: Mapping[str, torch.Tensor]) -> list[Any]:
        """``J v``."""
        store = self.graph.store
        step = STEP * _norm({name: store[name] for name in vector}) / max(_norm(vector), 1e-30)
        ends: list[list[torch.Tensor]] = []
        for sign in (step, -step):
            params = {name: store[name] + sign * part for name, part in vector.items()}
            with torch.no_grad():
                ends.append(floats(execute(self.graph, batch, params=params)))
        return [(a - b) / (2 * step) for a, b in zip(*ends, strict=True)]

    def _weighed(self, outputs: Sequence[Any], moved: Sequence[torch.Tensor]) -> list[Any]:
        """``M`` times a change of the outputs."""
        if self.metric == "error":
            return list(moved)
        chances = [value.detach().softmax(-1) for value in floats(outputs)]
        return [
            p * (v - (p * v).sum(-1, keepdim=True)) for p, v in zip(chances, moved, strict=True)
        ]


def _norm(vector: Mapping[str, torch.Tensor]) -> float:
    return sum(float(part.double().square().sum()) for part in vector.values()) ** 0.5
