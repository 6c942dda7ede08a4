"""A21: weights projected on structured families, at equal parameters: what is lost, by the weights
alone and by what layers read, and what is left of the model without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from base import Figures, Subject, digits_vit, publish, smollm2

from regauge.ir.blocks import repeated
from regauge.ir.gauge import weighted
from regauge.passes import Factorize, Kronecker, LowRank, Monarch, TensorTrain
from regauge.passes.structure.costs import Costs
from regauge.passes.structure.forms import Form

FORMS: tuple[Form, ...] = (LowRank(), Monarch(), Kronecker(), TensorTrain())
BLOCKS = (3, 11, 19, 27)
STEPS = 20
SAYS = (
    "{subjects}. Half of the parameters of each layer go; no training. Claimed (A21): block "
    "tensor trains (Monarch at rank 1) are a better family than low rank for the same products, "
    "and what a trained matrix is projected on decides how much is lost. Lost is the mean over "
    "layers of the part of a result's power that is gone on the calibration data, each layer by "
    "what it reads behind those before it."
)


def measure() -> Figures:
    rows: list[list[Any]] = []
    vit, decoder = digits_vit(), smollm2(8, 4)
    everywhere = range(len(repeated(vit.graph)))
    for subject, sites in (
        (vit, linear_layers(vit, everywhere)),
        (decoder, linear_layers(decoder, BLOCKS, behind_attention=True)),
    ):
        name = subject.title.split(";")[0]
        rows.append([name, "dense", "", 1.0, 1.0, 0.0, subject.quality(subject.graph)])
        print(rows[-1], flush=True)
        for form in FORMS:
            ways = {
                "weights": Factorize(form, 0.5, sites=sites, whitened=False),
                "data": Factorize(form, 0.5, sites=sites),
                f"data, {STEPS} steps": Factorize(form, 0.5, sites=sites, steps=STEPS),
            }
            for way, step in ways.items():
                if step.steps and isinstance(form, LowRank):  # the fit is the best
                    continue
                rows.append([name, str(form), way, *figures(subject, step)])
                print(rows[-1], flush=True)
    subjects = (
        f"{vit.title} (accuracy), all layers of the blocks; {decoder.title} (perplexity), the "
    )
    return Figures(rows, {"subjects": f"{subjects}feed-forward layers of {len(BLOCKS)} blocks"})


def figures(subject: Subject, step: Factorize) -> list[float]:
    """Parameters and products of what is re-factored, as parts of what they were; what is lost;
    and the quality."""
    graph, remarks = step.attempt(subject.graph, subject.context)
    names = list(remarks[-1].data["ranks"])
    inputs = subject.calibration[0]
    before, after = (Costs(g, [], inputs) for g in (subject.graph, graph))
    nodes = [subject.graph[name] for name in names]
    size = sum(subject.graph.value(node.args[1]).numel() for node in nodes)
    products = before.of(nodes)
    left = 1 - (before.parameters() - after.parameters()) / size
    done = 1 - (before.macs() - after.macs()) / products
    lost = [r.data["lost"] for r in remarks if r.data.get("lost") is not None]
    if not lost:
        return [left, done, float("nan"), subject.quality(graph)]
    return [left, done, sum(lost) / len(lost), subject.quality(graph)]


def linear_layers(
    subject: Subject, blocks: Sequence[int], *, behind_attention: bool = False
) -> tuple[str, ...]:
    """The names of the linear layers of some blocks; of those behind the attention alone."""
    found: list[str] = []
    chain = repeated(subject.graph)
    for index in blocks:
        nodes, start = list(chain[index].nodes), 0
        if behind_attention:
            start = [n.op == "scaled_dot_product_attention" for n in nodes].index(True)
        names = [node.name for node in nodes[start:] if weighted(node)]
        found += names[1:] if behind_attention else names  # without the attention's own
    return tuple(found)


if __name__ == "__main__":
    publish(
        "structured",
        "Structured matrices for dense ones (A21)",
        SAYS,
        ["model", "form", "fitted to", "parameters", "products", "lost", "quality"],
        measure,
    )
