"""Bits where they matter: scores of damage, costs, and solvers of what to choose under a budget."""

from ..budget import Bisection as Bisection
from ..budget import DynamicProgramming as DynamicProgramming
from ..budget import Greedy as Greedy
from ..budget import IntegerProgramming as IntegerProgramming
from ..budget import Problem as Problem
from ..budget import Solver as Solver
from ..budget import Threshold as Threshold
from .allocate import Allocate as Allocate
from .allocate import Budget as Budget
from .candidates import Candidates as Candidates
from .gradient import Gradient as Gradient
from .hessian import Hessian as Hessian
from .ordered import Chance as Chance
from .ordered import Outstanding as Outstanding
from .ordered import Similarity as Similarity
from .relevance import LayerRelevance as LayerRelevance
from .rows import AllocateRows as AllocateRows
from .score import Damages as Damages
from .score import Measured as Measured
from .score import Score as Score

__all__ = [
    "Allocate",
    "AllocateRows",
    "Bisection",
    "Budget",
    "Candidates",
    "Chance",
    "Damages",
    "DynamicProgramming",
    "Gradient",
    "Greedy",
    "Hessian",
    "IntegerProgramming",
    "LayerRelevance",
    "Measured",
    "Outstanding",
    "Problem",
    "Score",
    "Similarity",
    "Solver",
    "Threshold",
]
