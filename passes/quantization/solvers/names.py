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
    if not isinstance(given, str):
        return given
    if given not in SOLVERS:
        raise InputError(
            f"no solver is called '{given}'",
            do=f"one of {', '.join(SOLVERS)}, or an object such as GPTQ(order='pivot')",
        )
    return SOLVERS[given]
