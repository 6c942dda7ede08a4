"""Scores of damage and solvers of budgets against each other, on MiniLM."""

from base import minilm
from comparing import SCORES, compare

from regauge.passes.allocation import Measured

SAYS = (
    "No mixture of these three widths that was found beats int4 everywhere: by measured damage "
    "that is the optimum itself. Scores by gradients are of first order and take int2 for less "
    "harmful than it is, which costs a tenth of the error; relevance costs more, and dependencies "
    "from so few probes mislead. Scores that only order gain nothing by a mixture. So `Allocate` "
    "runs what it found beside one choice for all, and takes the better."
)

if __name__ == "__main__":
    scores = SCORES | {"measured": Measured(batches=1)}
    compare("allocation_minilm", lambda: minilm(16, 8), scores, "error", SAYS)
