"""What each expert of a mixture is worth: the score of a removal."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from ....ir import Graph, InputError, Node
from ....ir.interpret import values_of
from ...base import Context
from ...options import COUNT, PART, check_kinds, check_numbers
from ..groups import in_full
from .mixtures import Mixture, mixtures

Base: TypeAlias = "Graph | Mapping[str, torch.Tensor]"


@dataclass(frozen=True)
class ExpertScore(abc.ABC):
    """A value with typed options."""

    @abc.abstractmethod
    def of(self, graph: Graph, found: Sequence[Mixture], context: Context) -> list[torch.Tensor]:
        """For each mixture, what its experts are worth, ``float64[experts]``."""

    @property
    def name(self) -> str:
        return type(self).__name__


@dataclass(frozen=True)
class Watching(ExpertScore):
    """A score summed up over calibration data, from values of the graph as it is."""

    def of(self, graph: Graph, found: Sequence[Mixture], context: Context) -> list[torch.Tensor]:
        batches, single = context.need_calibration(self.name), in_full(graph)
        by_name = {mixture.name: mixture for mixture in mixtures(single)[0]}
        own = [by_name[mixture.name] for mixture in found]
        totals = [torch.zeros(self.rows(mixture), dtype=torch.float64) for mixture in own]
        wanted = list({node for mixture in own for node in self.watched(mixture)})
        for batch in context.progress(batches, f"{self.name}: watching experts"):
            values = dict(zip(wanted, values_of(single, batch, wanted), strict=True))
            with torch.no_grad():
                for total, mixture in zip(totals, own, strict=True):
                    total += self.seen(mixture, values)
        return [self.worth(total) for total in totals]

    @abc.abstractmethod
    def watched(self, mixture: Mixture) -> set[Node]:
        """The values that it looks at."""

    @abc.abstractmethod
    def seen(self, mixture: Mixture, values: Mapping[Node, Any]) -> torch.Tensor:
        """What one batch adds, a number for each expert or for what it sums up besides."""

    def rows(self, mixture: Mixture) -> int:
        """How many numbers are summed up."""
        return mixture.count

    def worth(self, total: torch.Tensor) -> torch.Tensor:
        return total


@dataclass(frozen=True)
class UsageScore(Watching):
    """How often an expert is chosen; where all are taken, its part of the weights."""

    def watched(self, mixture: Mixture) -> set[Node]:
        return set(mixture.chosen) or {mixture.router}

    def seen(self, mixture: Mixture, values: Mapping[Node, Any]) -> torch.Tensor:
        if mixture.chosen:
            numbers = torch.cat([values[node].flatten() for node in mixture.chosen])
            return torch.bincount(numbers, minlength=mixture.count).double()
        return _rows(values[mixture.router]).softmax(-1).sum(0)

    def worth(self, total: torch.Tensor) -> torch.Tensor:
        return total / total.sum()


@dataclass(frozen=True)
class RouterScore(Watching):
    """Task-conditioned expert selection (TCESS, A67): the sum of an expert's scores over the rows
    in which it is among the highest.

    Args:
        active: How many of a row count as highest; those that the row takes, where it is ``None``.
        least: The probability, among the highest, from which a row counts.
    """

    active: int | None = 1
    least: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, active=COUNT | None, least=PART)

    def watched(self, mixture: Mixture) -> set[Node]:
        return {mixture.router}

    def seen(self, mixture: Mixture, values: Mapping[Node, Any]) -> torch.Tensor:
        rows = _rows(values[mixture.router])
        count = min(self.active or mixture.active, mixture.count)
        scores, numbers = rows.topk(count, -1)
        counted = torch.where(scores.softmax(-1) >= self.least, scores, 0)
        return rows.new_zeros(mixture.count).index_add(0, numbers.flatten(), counted.flatten())


@dataclass(frozen=True, eq=False)
class DriftScore(ExpertScore):
    """How much longer an expert's row of the router has become in fine-tuning (A04):
    ``|w_e| - |w_e before|``. No data are needed.

    Args:
        base: The model before: its graph, or the tensors of its state by name, be these the
            graph's names of parameters or those of the checkpoint that it was traced from.
    """

    base: Base

    def __post_init__(self) -> None:
        check_kinds(self, base=Graph | Mapping)

    def of(self, graph: Graph, found: Sequence[Mixture], context: Context) -> list[torch.Tensor]:
        scores: list[torch.Tensor] = []
        for mixture in found:
            param = mixture.router.args[1]
            now, before = graph.value(param).double(), self._before(graph, param).double()
            if now.shape != before.shape:
                raise InputError(
                    f"the base has {list(before.shape)} for {param.name}, {list(now.shape)} here",
                    do="the state of the very model that was fine-tuned",
                )
            scores.append(now.norm(dim=1) - before.norm(dim=1))
        return scores

    def _before(self, graph: Graph, param: Node) -> torch.Tensor:
        names = [param.name, *graph.store.origin.get(param.name, ())]
        for name in names:
            if isinstance(self.base, Graph) and name in self.base.params:
                return self.base.value(self.base.params[name])
            if not isinstance(self.base, Graph) and name in self.base:
                return self.base[name]
        raise InputError(
            f"the base has no {' and no '.join(dict.fromkeys(names))}",
            do="the graph, or the state dict, of the model before fine-tuning",
        )


@dataclass(frozen=True)
class OutputScore(Watching):
    """The part of the power of the mixture's result that is lost without an expert, the others
    chosen in its place."""

    def rows(self, mixture: Mixture) -> int:
        return mixture.count + 1

    def watched(self, mixture: Mixture) -> set[Node]:
        return mixture.entering() | {mixture.result}

    def seen(self, mixture: Mixture, values: Mapping[Node, Any]) -> torch.Tensor:
        whole = values[mixture.result].double()
        lost = [
            (mixture.masked(values, kept) - whole).square().sum()
            for kept in ~torch.eye(mixture.count, dtype=torch.bool)
        ]
        return torch.stack([*lost, whole.square().sum()])

    def worth(self, total: torch.Tensor) -> torch.Tensor:
        return total[:-1] / total[-1].clamp(min=1e-300)


def _rows(scores: torch.Tensor) -> torch.Tensor:
    return scores.double().flatten(0, -2)


SCORES: Mapping[str, ExpertScore] = {
    "usage": UsageScore(),
    "router": RouterScore(),
    "output": OutputScore(),
}
