"""Scores of damage and solvers of budgets against each other, on MiniLM."""

from base import minilm
from comparing import SCORES, compare

from regauge.passes.allocation import Measured

if __name__ == "__main__":
    compare("allocation_minilm", minilm(16, 8), SCORES | {"measured": Measured(batches=1)})
