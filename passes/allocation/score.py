"""Scores: the damage that is expected of each choice of each unit, from the graph and data."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch

from ..options import COUNT, check_numbers
from .candidates import Candidates


@dataclass(frozen=True)
class Damages:
    """What a score gives.

    Args:
        damage: ``float64[U, C]``; infinite where a unit does not have a choice.
        projections: ``float64[U, C, K]`` whose squares sum up to the damage over the last axis,
            where the score knows how the errors of units meet in the outputs.
    """

    damage: torch.Tensor
    projections: torch.Tensor | None = None


@dataclass(frozen=True)
class Score(abc.ABC):
    """A value with typed options."""

    @abc.abstractmethod
    def damages(self, candidates: Candidates) -> Damages:
        """The damage of each choice of each unit, the rest left in floating point."""

    @property
    def name(self) -> str:
        return type(self).__name__


@dataclass(frozen=True)
class Measured(Score):
    """The damage of each choice by itself, run: ``|y' - y|^2 / |y|^2``.

    Args:
        batches: At most so many of the calibration batches, for each choice of each unit.
    """

    batches: int = 2

    def __post_init__(self) -> None:
        check_numbers(self, batches=COUNT)

    def damages(self, candidates: Candidates) -> Damages:
        batches = candidates.batches(self.name, self.batches)
        wanted = candidates.exact(batches)
        found = torch.full(candidates.offered.shape, torch.inf, dtype=torch.float64)
        units = list(enumerate(candidates.units))
        for row, unit in candidates.context.progress(units, f"{self.name}: trying choices"):
            for column, choice in candidates.options(row):
                chosen = dict.fromkeys(unit.readers, choice)
                found[row, column] = candidates.damage(chosen, batches, wanted)
        return Damages(found)


def squared_errors(candidates: Candidates) -> torch.Tensor:
    """``sum (W' - W)^2`` of each choice, ``float64[U, C]``."""
    found = torch.full(candidates.offered.shape, torch.inf, dtype=torch.float64)
    for row, unit in enumerate(candidates.units):
        for column, choice in candidates.options(row):
            found[row, column] = sum(
                float(candidates.error(weight, choice).square().sum()) for weight in unit.weights
            )
    return found
