"""Scores of damage and solvers of budgets against each other, on SmolLM2."""

from base import smollm2
from comparing import SCORES, compare

from regauge.passes.allocation import Gradient

SAYS = ""

if __name__ == "__main__":
    kept = {name: SCORES[name] for name in ("LIM", "ZD", "chance")}
    kept["gradient-weighted error"] = Gradient(probes=1, batches=1)
    likelihood = Gradient(probes=1, batches=1, metric="likelihood")
    scores = kept | {"Fisher information": likelihood}
    compare("allocation_smollm2", lambda: smollm2(4, 4), scores, "perplexity", SAYS)
