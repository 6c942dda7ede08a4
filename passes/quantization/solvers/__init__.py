"""Rounding solvers: which codes stand for a weight matrix, so that what it computes changes least.

    minimise  tr[(V - W) H (V - W)']    over the matrices V that codes can stand for,
    H = sum_t x_t x_t'

A solver gets the matrix, a Hessian and the grid of what codes can stand for, and gives V, perhaps
with a few weights that stay in floating point. Source: F6.
"""

from .beam import KBest as KBest
from .channelwise import LIMIT as LIMIT
from .channelwise import nearest as nearest
from .channelwise import rounded as rounded
from .channelwise import scales as scales
from .descent import CoordinateDescent as CoordinateDescent
from .gptq import GPTQ as GPTQ
from .grid import CHANNEL_CODES as CHANNEL_CODES
from .grid import INT8 as INT8
from .grid import Grid as Grid
from .grid import no_zeros as no_zeros
from .hessian import Hessian as Hessian
from .low_rank import low_rank as low_rank
from .low_rank import singular as singular
from .names import SOLVERS as SOLVERS
from .names import named_solver as named_solver
from .plain import Nearest as Nearest
from .problem import Solution as Solution
from .problem import Solver as Solver
from .problem import solved as solved
from .ranges import RANGES as RANGES
from .ranges import Range as Range
from .ranges import clipped as clipped
from .targets import Drift as Drift
from .targets import add_products as add_products
from .targets import held_out_share as held_out_share
from .targets import making_up as making_up
