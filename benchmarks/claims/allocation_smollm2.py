"""Scores of damage and solvers of budgets against each other, on SmolLM2."""

from base import smollm2
from comparing import SCORES, compare

from regauge.passes.allocation import Gradient

SAYS = (
    "As on MiniLM, no mixture of these three widths that was found beats int4 everywhere. The "
    "gradient-weighted error, which is of first order and takes int2 for less harmful than it is, "
    "costs a third of the perplexity; the Fisher information, which weighs logits by what they do "
    "to the distribution, costs 7 %. Scores that only order gain nothing by a mixture, and find "
    "int4 everywhere, but for dynamic programming: it rounds costs up to its grid, so the budget "
    "that all of int4 takes to the last bit is out of its reach, and that costs 1.5 %. Each score "
    "had one probe of one batch; measured damage and relevance were not run on a model of this "
    "size."
)

if __name__ == "__main__":
    kept = {name: SCORES[name] for name in ("LIM", "ZD", "chance")}
    kept["gradient-weighted error"] = Gradient(probes=1, batches=1)
    likelihood = Gradient(probes=1, batches=1, metric="likelihood")
    scores = kept | {"Fisher information": likelihood}
    compare("allocation_smollm2", lambda: smollm2(4, 4), scores, "perplexity", SAYS)
