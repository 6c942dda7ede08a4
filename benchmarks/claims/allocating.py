"""What the demonstrations of allocation share: candidates of a subject, and graphs quantized as was
chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from base import Subject

from regauge.ir import Graph
from regauge.ir.interpret import execute
from regauge.passes import Allocate, Budget, Quantize
from regauge.passes.allocation import Candidates, Chance, Score, Solver, Threshold
from regauge.passes.allocation.units import By

NEAREST = Quantize(None, rounding="nearest", correct_bias=False)


def formats(*bits: int, group: int = 64) -> tuple[str, ...]:
    return tuple(f"int{width}-g{group}-pad-asym" for width in bits)


def candidates(subject: Subject, names: Sequence[str], by: By = "weight") -> Candidates:
    """The units of a subject with what they may choose."""
    step = Allocate(tuple(names), 8.0, by=by)
    return Candidates.of(subject.graph, subject.context, step.units(subject.graph), step.offers)


def allocated(
    subject: Subject,
    names: Sequence[str],
    budget: Budget | float,
    score: Score | None = None,
    solver: Solver | None = None,
    by: By = "weight",
    quantize: Quantize = NEAREST,
) -> tuple[Graph, dict[str, Any]]:
    """The quantized graph, and what the pass says of its choices."""
    step = Allocate(tuple(names), budget, score or Chance(), solver or Threshold(), quantize, by=by)
    graph, remarks = step.attempt(subject.graph, subject.context)
    return graph, remarks[0].data


def quality(subject: Subject, found: Candidates, params: Mapping[str, torch.Tensor]) -> float:
    """The measure of a subject with other values for some of its weights."""
    with torch.no_grad():
        return subject.judge(lambda batch: execute(found.graph, batch, params=params)[0])
