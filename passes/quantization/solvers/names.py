"""Solvers by name."""

from __future__ import annotations

from ....ir import InputError
from .beam import KBest
from .descent import CoordinateDescent
from .gptq import GPTQ
from .plain import Nearest
from .problem import Solver

SOLVERS: dict[str, Solver] = {
    "nearest": Nearest(),
    "gptq": GPTQ(),
    "k-best": KBest(),
    "coordinate-descent": CoordinateDescent(),
}


def named_solver(given: str | Solver) -> Solver:
    """The solver of a name, or the one that is given."""
    if isinstance(given, str) and given in SOLVERS:
        return SOLVERS[given]
    if isinstance(given, str) or not hasattr(given, "solve"):
        raise InputError(
            f"no solver is called {given!r}",
            do=f"one of {', '.join(SOLVERS)}, or an object such as GPTQ(order='pivot')",
        )
    return given
