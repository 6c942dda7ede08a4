"""Gradient-weighted error: one backward run gives what every choice of every unit does to the
outputs, to first order.

    |J_u e|^2 = E_r (r' J_u e)^2 = E_r (sum_t g_t' e_t)^2         g = the gradient of r'y

y are the graph's outputs, J_u their Jacobian by what a unit's readers give, e the error of these,
``W' x - W x + W (x' - x)``, and r a random direction. A product is taken for each sample of a
batch, as the errors of one leave the others alone. The products are kept: those of different units
multiplied say how their errors meet in the outputs, which no sum over units sees (A71). By the
likelihood this is the Fisher information of the errors (A83).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

import torch

from ...ir import Node, ops
from ...ir.gauge import weighted
from ...ir.interpret import execute
from ...ir.state import answered
from ..options import COUNT, check_known, check_numbers
from ..probes import Metric, power, seeds
from ..quantization.simulated import floats
from .candidates import Candidates
from .score import Damages, Score
from .units import data_of, weight_of

_Made: TypeAlias = tuple[str | None, str | None]  # of weights: their format and their zeros
AS_IT_IS: _Made = (None, None)
ROWS = 4096  # of a weight, worked on at once


@dataclass(frozen=True)
class Gradient(Score):
    """The expected squared error of the outputs, by random probes of them.

    Args:
        probes: For each batch.
        batches: At most so many of the calibration batches.
        metric: ``error`` of the outputs, relative; or ``likelihood``, where they are logits.
        dependencies: Whether the errors of different units may add up and cancel.
    """

    probes: int = 2
    batches: int = 4
    metric: Metric = "error"
    dependencies: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, probes=COUNT, batches=COUNT)
        check_known([self.metric], get_args(Metric), "metric")

    def damages(self, candidates: Candidates) -> Damages:
        products = torch.cat([probe.products for probe in self.probed(candidates)], 2)
        damage = torch.where(candidates.offered, products.square().sum(2), torch.inf)
        return Damages(damage, products if self.dependencies else None)

    def of_rows(self, candidates: Candidates) -> list[torch.Tensor]:
        """The damage of each choice to each row of a unit's weights by itself, ``[C, O]``."""
        found: list[torch.Tensor] = []
        for probe in self.probed(candidates, rows=True):
            squares = [part.square().sum(1) for part in probe.by_row]
            found = [a + b for a, b in zip(found, squares, strict=True)] if found else squares
        return found

    def probed(self, candidates: Candidates, *, rows: bool = False) -> Iterator[Probe]:
        """Probes whose products, squared and summed up, are damages."""
        batches = candidates.batches(self.name, self.batches)
        graph, generator = candidates.graph, candidates.context.generator()
        with torch.no_grad():
            outputs = [answered(graph, execute(graph, batch)) for batch in batches]
        scale = self.probes * max(sum(power(found, self.metric) for found in outputs), 1e-30)
        runs = [batch for batch in batches for _ in range(self.probes)]
        for batch in candidates.context.progress(runs, f"{self.name}: probing"):
            probe = Probe(candidates, batch, rows=rows)
            with torch.enable_grad():
                found = answered(graph, execute(graph, batch, tap=probe.tap, read=probe.read))
                directions = seeds(found, self.metric, generator)
                torch.autograd.backward(floats(found), directions)
            probe.scale(scale**-0.5)
            yield probe


class Probe:
    """The products of one probe's gradients with the errors of every choice.

    Attributes:
        products: ``float64[U, C, B]`` for samples ``B``.
        by_row: The same for each row of the weights of each unit, ``[C, B, O]``, if asked for.
    """

    def __init__(self, candidates: Candidates, batch: Sequence[Any], *, rows: bool) -> None:
        self.candidates = candidates
        self.samples = next((len(v) for v in batch if isinstance(v, torch.Tensor) and v.dim()), 1)
        shape = (*candidates.offered.shape, self.samples)
        self.products = torch.zeros(shape, dtype=torch.float64)
        self.by_row: list[torch.Tensor] = []
        if rows:
            self.by_row = [
                torch.zeros(*shape[1:], sum(int(w.shape[0]) for w in unit.weights))
                for unit in candidates.units
            ]
        self.unit = {r: i for i, unit in enumerate(candidates.units) for r in unit.readers}
        self.moves = any(choice.activations is not None for choice in candidates.choices)
        self.data: dict[Node, torch.Tensor] = {}

    def scale(self, factor: float) -> None:
        self.products *= factor
        self.by_row = [part * factor for part in self.by_row]

    def read(self, reader: Node, used: Node, value: Any) -> Any:
        """Keep what a reader reads, and ask for the gradient by it."""
        if reader not in self.unit or used is not data_of(reader):
            return value
        self.data[reader] = value.detach()
        if not self.moves or not weighted(reader):
            return value
        own = value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
        own.register_hook(lambda gradient: self.by_data(reader, gradient))
        return own

    def tap(self, node: Node, value: Any) -> Any:
        """Ask for the gradient by what a reader gives."""
        if node not in self.unit:
            return None
        own = value if value.requires_grad else value.detach().requires_grad_()
        own.register_hook(lambda gradient: self.by_result(node, gradient))
        return own

    def by_data(self, reader: Node, gradient: torch.Tensor) -> None:
        """Add the products with the errors of what is read."""
        row, data = self.unit[reader], self.data[reader]
        found: dict[str, torch.Tensor] = {}
        for column, choice in self.candidates.options(row):
            if (kind := choice.activations) is None:
                continue
            if kind not in found:
                error = self.candidates.data(reader, data, choice) - data
                found[kind] = self._by_sample(gradient * error).sum(1)
            self.products[row, column] += found[kind]

    def by_result(self, reader: Node, gradient: torch.Tensor) -> None:
        """Add the products with the errors of the weights."""
        row, weight = self.unit[reader], weight_of(reader)
        found: dict[_Made, torch.Tensor] = {}
        product = self._linear if reader.op == "linear" else self._other
        for _, choice in self.candidates.options(row):
            if (made := choice.stored) != AS_IT_IS and made not in found:
                found[made] = self.candidates.error(weight, choice)
        products = product(reader, gradient, found)
        first = 0
        for other in self.candidates.units[row].weights:
            if other is weight:
                break
            first += int(other.shape[0])
        for column, choice in self.candidates.options(row):
            if choice.stored == AS_IT_IS:
                continue
            part = products[choice.stored]  # [B, O], or [B, 1] of all rows together
            self.products[row, column] += part.sum(1)
            if self.by_row and part.shape[1] == int(weight.shape[0]):
                self.by_row[row][column, :, first : first + part.shape[1]] += part

    def _linear(
        self, reader: Node, gradient: torch.Tensor, errors: dict[_Made, torch.Tensor]
    ) -> dict[_Made, torch.Tensor]:
        """``sum_t g_to (e_o' x_t)`` for each sample and row, by the gradients of the weights."""
        x, g = (self._samples(part) for part in (self.data[reader], gradient))
        found = list[torch.Tensor]()
        if not errors:
            return {}
        for start in range(0, g.shape[2], ROWS):
            by_weight = g[:, :, start : start + ROWS].transpose(1, 2) @ x  # [B, rows, I]
            parts = torch.stack([error[start : start + ROWS] for error in errors.values()])
            found.append(torch.einsum("boi,foi->fbo", by_weight, parts))
        products = torch.cat(found, 2)
        return {made: self._placed(part) for made, part in zip(errors, products, strict=True)}

    def _other(
        self, reader: Node, gradient: torch.Tensor, errors: dict[_Made, torch.Tensor]
    ) -> dict[_Made, torch.Tensor]:
        """The same for any op that is linear in its weights."""
        data, found = self.data[reader], dict[_Made, torch.Tensor]()
        for made, error in errors.items():
            args = (error, data) if reader.op == "embedding" else (data, error)
            with torch.no_grad():
                change = ops.call(reader.op, args, reader.attrs)
            found[made] = self._by_sample(gradient * change).sum(1, keepdim=True)
        return found

    def _count(self, value: torch.Tensor) -> int:
        """How many samples can be told apart in a value: along its first axis, or not."""
        return self.samples if value.dim() > 1 and len(value) % self.samples == 0 else 1

    def _samples(self, value: torch.Tensor) -> torch.Tensor:
        """``[B, positions, n]``."""
        return value.reshape(self._count(value), -1, value.shape[-1])

    def _by_sample(self, value: torch.Tensor) -> torch.Tensor:
        """``[B, numbers of a sample]``."""
        return self._placed(value.reshape(self._count(value), -1))

    def _placed(self, found: torch.Tensor) -> torch.Tensor:
        """With a row for every sample: what cannot be told apart is the first's."""
        return torch.nn.functional.pad(found, (0, 0, 0, self.samples - len(found)))
