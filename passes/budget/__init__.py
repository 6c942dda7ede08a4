"""One choice for each of many under a budget, by whoever chooses: the problem and its solvers."""

from .problem import Assignment as Assignment
from .problem import Problem as Problem
from .solvers import Bisection as Bisection
from .solvers import DynamicProgramming as DynamicProgramming
from .solvers import Greedy as Greedy
from .solvers import IntegerProgramming as IntegerProgramming
from .solvers import Solver as Solver
from .solvers import Threshold as Threshold
