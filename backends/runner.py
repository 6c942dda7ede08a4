"""What a target makes of a graph: something that runs, and where it can, keeps state in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from ..ir import Graph


class Runner(Protocol):
    """A lowered graph: flat inputs to flat outputs, as ``ir.interpret.execute`` has them."""

    def __call__(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """Run once."""
        ...

    def save(self, folder: Path) -> None:
        """Write all that ``load`` needs into an existing folder."""
        ...

    @property
    def bytes(self) -> int:
        """The size of what ``save`` writes; of source text, of the constants in it."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a report says of it."""
        ...


class Steps(Protocol):
    """A batch of sequences that goes on: scores for what is new, which joins the state."""

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """``[batch, length]`` -> ``[batch, some, vocabulary]``, at least of the last one."""
        ...


@runtime_checkable
class KeepsState(Protocol):
    """A runner that can keep state in place from call to call."""

    @property
    def copies(self) -> str:
        """Why this graph's state is copied at each call; empty where it stays."""
        ...

    def steps(
        self,
        ids: str,
        scores: int,
        state: Mapping[str, int],
        given: Mapping[str, Any],
        capacity: int,
    ) -> Steps | None:
        """Begin with no tokens; ``None`` where state is copied.

        Args:
            ids: The input of what is new.
            scores: The place of the output to return.
            state: The inputs of state, and the places of the outputs that follow them.
            given: The inputs, with the state of no tokens.
            capacity: How many tokens the state must be able to hold.
        """
        ...


class Lowering(Protocol):
    """What a target's module must hold, as two functions at its top level."""

    def lower(self, graph: Graph) -> Runner:
        """Compile a graph in memory."""
        ...

    def load(self, folder: Path, graph: Graph) -> Runner:
        """Bring back what ``Runner.save`` wrote; ``graph`` has the types but no weights yet."""
        ...
