"""Zeros that a weight keeps when it becomes codes.

Who put zeros into a weight wants them in what is stored: codes of a pattern (``Sparsify``) take
less, and some kernels multiply them faster. A solver moves errors from one weight to others, and
zeros would take some up; so they are held (``Grid.holding``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...ir import Node
from ...ir.formats import Format
from .solvers import no_zeros

# Of a weight that is zero by chance, in a place or in a channel that is dead, holding zeros would
# only take freedom from the solver. Below one zero in eight even int8 codes, which have most to
# gain, take no less without their zeros: each place takes a bit then, to tell which they are.
KEPT = 1 / 8


@dataclass(frozen=True)
class Zeros:
    """Of a weight.

    Attributes:
        share: How many of its numbers are zero, as a part of them.
        held: Where they stay, of the weight's shape; ``None``: nowhere.
        lost: Why they do not, where there are many.
    """

    share: float
    held: torch.Tensor | None = None
    lost: str = ""

    @classmethod
    def of(cls, weight: torch.Tensor, form: Format, kept: float | None) -> Zeros:
        """The zeros of a weight that gets codes of a format.

        Args:
            kept: From which share on they stay; ``None``: they do not.
        """
        there = weight == 0
        share = float(there.double().mean())
        if kept is None or share < kept or not share:
            return cls(share)
        lost = no_zeros(form)
        return cls(share, lost=lost) if lost else cls(share, there)

    def note(self, weight: Node) -> str:
        """What is said of them; empty where there is nothing."""
        part = f"the {100 * self.share:.3g} % of zeros in {weight.name}"
        if self.held is not None:
            return f"{part} stay"
        return f"{part} do not stay: {self.lost}" if self.lost else ""
