"""Scores that only order units: by how like each block's output is to its input (LIM), by how many
weights stand out (ZD; both of A43, F9.8), or by chance.

    LIM = -mean_t cos(h_in, h_out)       higher: more important
    ZD  = #{w: (w - mean) / std > 1} / n       smaller: more important

The damage of a choice is its mean relative error, times the size of the unit and its rank: what has
only an order is given no more than that.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch

from ...ir import InputError, Node
from ...ir.blocks import repeated
from ...ir.interpret import execute
from .candidates import Candidates
from .score import Damages, Score, squared_errors


@dataclass(frozen=True)
class Ordered(Score):
    """Damage by rank.

    Args:
        reverse: Whether what is important comes last: to see what an order is worth.
    """

    reverse: bool = False

    @abc.abstractmethod
    def importances(self, candidates: Candidates) -> torch.Tensor:
        """Of each unit, ``float64[U]``; equal ones have one rank."""

    def damages(self, candidates: Candidates) -> Damages:
        importance = self.importances(candidates)
        _, rank = torch.unique(-importance if self.reverse else importance, return_inverse=True)
        errors = squared_errors(candidates)
        offered = candidates.offered
        powers = torch.tensor(
            [
                sum(float(candidates.graph.value(w).double().square().sum()) for w in unit.weights)
                for unit in candidates.units
            ],
            dtype=torch.float64,
        )
        wrong = torch.where(offered, errors, 0).sum(0)
        relative = wrong / (offered * powers[:, None]).sum(0).clamp(min=1e-30)
        sizes = torch.tensor([float(unit.size) for unit in candidates.units]).double()
        damage = (1.0 + rank)[:, None] * sizes[:, None] * relative / sizes.sum()
        return Damages(torch.where(offered, damage, torch.inf))


@dataclass(frozen=True)
class Similarity(Ordered):
    """LIM: what a block changes little is not important. What is in no block is the most important.

    Args:
        batches: At most so many of the calibration batches.
    """

    batches: int = 2

    def importances(self, candidates: Candidates) -> torch.Tensor:
        found = repeated(candidates.graph)
        if not found:
            raise InputError(
                "Similarity compares what repeated blocks read and give, and the graph has none",
                do="choose another score, such as Gradient()",
            )
        blocks = {index: (block.entry, block.exit) for index, block in enumerate(found)}
        wanted = {node for ends in blocks.values() for node in ends if node is not None}
        total, batches = dict.fromkeys(blocks, 0.0), candidates.batches(self.name, self.batches)
        for batch in batches:
            values: dict[Node, torch.Tensor] = {}

            def keep(
                node: Node, value: torch.Tensor, values: dict[Node, torch.Tensor] = values
            ) -> None:
                if node in wanted:
                    values[node] = value

            with torch.no_grad():
                execute(candidates.graph, batch, tap=keep)
            for index, (entry, end) in blocks.items():
                if entry is not None:
                    cosine = torch.cosine_similarity(values[entry], values[end], dim=-1)
                    total[index] += float(cosine.mean()) / len(batches)
        ranks = [-total[unit.block] if unit.block >= 0 else 1.0 for unit in candidates.units]
        return torch.tensor(ranks, dtype=torch.float64)


@dataclass(frozen=True)
class Outstanding(Ordered):
    """ZD: a unit, or the block that it is in, few of whose weights stand out is important."""

    def importances(self, candidates: Candidates) -> torch.Tensor:
        members: dict[object, list[Node]] = {}
        for index, unit in enumerate(candidates.units):
            key = ("unit", index) if unit.block < 0 else ("block", unit.block)
            members.setdefault(key, []).extend(unit.weights)
        parts: dict[object, float] = {}
        for key, weights in members.items():
            values = torch.cat([candidates.graph.value(weight).flatten() for weight in weights])
            out = (values - values.mean()) / values.std().clamp(min=1e-30) > 1
            parts[key] = -float(out.double().mean())
        return torch.tensor(
            [
                parts[("unit", index) if unit.block < 0 else ("block", unit.block)]
                for index, unit in enumerate(candidates.units)
            ],
            dtype=torch.float64,
        )


@dataclass(frozen=True)
class Chance(Ordered):
    """No order but a random one, of units or of the blocks that they are in."""

    seed: int = 0

    def importances(self, candidates: Candidates) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.rand(2, len(candidates.units) + 1, generator=generator).double()
        return torch.stack(
            [
                drawn[0, index] if unit.block < 0 else drawn[1, unit.block]
                for index, unit in enumerate(candidates.units)
            ]
        )
