"""A21: weights projected on structured families, at equal parameters: what is lost, by the weights
alone and by what layers read, what is left of a small model, and what that learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from base import Figures, Subject, digits_vit, publish, smollm2
from layers import Layer, layers
from vision import learned

from regauge.ir import Graph
from regauge.ir.blocks import repeated
from regauge.ir.gauge import weighted
from regauge.passes import Factorize, Kronecker, LowRank, Monarch, TensorTrain
from regauge.passes.structure.costs import Costs
from regauge.passes.structure.factors.forms import Form, refined

FORMS: tuple[Form, ...] = (LowRank(), Monarch(), Kronecker(), TensorTrain())
BLOCKS = (3, 19)
LEFT = 0.5  # of the parameters
STEPS = 10
TAUGHT = 100  # steps
DAMPING = 0.01
SAYS = (
    "{vit}, all layers of the blocks; {decoder}, the feed-forward layers of blocks {blocks}, 8 "
    "windows of 256 tokens to fit to and 4 others to judge by. Half of each layer's parameters go. "
    "Claimed (A21): structured families other than low rank, block tensor trains (Monarch) above "
    "all, are better for the same products, and a trained matrix is to be projected on them "
    "optimally. Lost is the part of the power of a layer's result, on average over layers: of the "
    "transformer each layer's on calibration images, by what it reads behind those before it; of "
    "the decoder by itself, on other text. Products are as a part of the dense layer's. *Fitted to "
    "nothing*: factors drawn at random, each as large as the one fitted to the weights. *Taught*: "
    "after {taught} steps of `Distill` of the whole transformer from the dense one, on 1408 images "
    "without labels; *error*: relative L2 of its logits then. That the projection matters is borne "
    "out: fitted to data every form keeps far more of the small model than fitted to the weights, "
    "and descent helps the forms without a closed solution further. After learning it matters less "
    "what they were fitted to than that they were: in as many steps projected factors come to 0.95 "
    "and more, random ones to 0.20 to 0.50 (longer training, which random ones would need, is not "
    "tried). That other families are better is not: low rank, whose fit is the optimum, loses "
    "least of each layer, nearly the least accuracy, and has the least error after learning too, "
    "where all accuracies of what is projected are within 6 of 352 images. Monarch alone has as "
    "few products (and, its ranks being coarse on small layers, fewer parameters there: 0.40 for "
    "0.49); at half of the parameters Kronecker sums and tensor trains take several times the "
    "products of the dense layer."
)


def measure() -> Figures:
    vit = digits_vit()
    decoder = smollm2(12, 4)  # two batches to fit to, one to judge by
    rows = [*small(vit), *projections(decoder)]
    facts = {
        "vit": vit.title,
        "decoder": decoder.title.split(";")[0],
        "blocks": " and ".join(map(str, BLOCKS)),
        "taught": TAUGHT,
    }
    return Figures(rows, facts)


def small(vit: Subject) -> list[list[Any]]:
    """All layers of a small model, with its accuracy before and after learning."""
    rows: list[list[Any]] = []
    name = vit.title.split(";")[0]
    rows.append([name, "dense", "", 1.0, 1.0, 0.0, vit.quality(vit.graph), "", ""])
    sites = linear_layers(vit)
    for form in FORMS:
        ways = {
            "weights": Factorize(form, 1 - LEFT, sites=sites, whitened=False),
            "data": Factorize(form, 1 - LEFT, sites=sites),
            f"data, {STEPS} steps": Factorize(form, 1 - LEFT, sites=sites, steps=STEPS),
        }
        for way, step in ways.items():
            if step.steps and isinstance(form, LowRank):  # the fit is the best
                continue
            graph, found = figures(vit, step)
            rows.append([name, str(form), way, *found, *after_learning(vit, graph)])
            print(rows[-1], flush=True)
            if way == "weights":
                drawn = at_random(vit, graph)
                found = [*found[:2], "", vit.quality(drawn), *after_learning(vit, drawn)]
                rows.append([name, str(form), "nothing", *found])
                print(rows[-1], flush=True)
    return rows


def figures(subject: Subject, step: Factorize) -> tuple[Graph, list[Any]]:
    """What comes of it; parameters and products of what is re-factored, as parts of what they
    were; what is lost; and the quality."""
    graph, remarks = step.attempt(subject.graph, subject.context)
    nodes = [subject.graph[name] for name in remarks[-1].data["ranks"]]
    before, after = (Costs(g, [], subject.calibration[0]) for g in (subject.graph, graph))
    size = sum(subject.graph.value(node.args[1]).numel() for node in nodes)
    left = 1 - (before.parameters() - after.parameters()) / size
    done = 1 - (before.macs() - after.macs()) / before.of(nodes)
    lost = [r.data["lost"] for r in remarks if r.data.get("lost") is not None]
    mean = sum(lost) / len(lost) if lost else ""
    return graph, [left, done, mean, subject.quality(graph)]


def after_learning(subject: Subject, graph: Graph) -> list[float]:
    """The quality, and the error of the outputs."""
    taught = learned(subject, graph, TAUGHT)
    return [subject.quality(taught), subject.error(taught)]


def at_random(subject: Subject, graph: Graph) -> Graph:
    """With factors drawn at random, each as large as it was."""
    drawn, generator = graph.copy(), torch.Generator().manual_seed(0)
    for name in sorted(drawn.params.keys() - subject.graph.params.keys()):
        value = drawn.store[name]
        size = value.square().mean().sqrt()
        drawn.store[name] = size * torch.randn(value.shape, generator=generator)
    return drawn


def projections(subject: Subject) -> list[list[Any]]:
    """The same of single layers of a decoder, without its quality."""
    calibration = replace(subject, calibration=subject.calibration[:2])
    found = [
        layer for layer in layers(calibration, subject.calibration[2:], BLOCKS) if is_wide(layer)
    ]
    name, rows = subject.title.split(";")[0], list[list[Any]]()
    for form in FORMS:
        parts: dict[str, list[tuple[float, float, float]]] = {}
        for layer in found:
            for way, part in projected(layer, form).items():
                parts.setdefault(way, []).append(part)
        for way, some in parts.items():
            means = [sum(column) / len(some) for column in zip(*some, strict=True)]
            rows.append([name, str(form), way, *means, "", "", ""])
            print(rows[-1], flush=True)
    return rows


def projected(layer: Layer, form: Form) -> dict[str, tuple[float, float, float]]:
    """Parameters, products, and what is lost on other data, by what the form is fitted to."""
    weight, size = layer.weight, layer.weight.numel()
    sizes = (int(weight.shape[0]), int(weight.shape[1]))
    rank = form.rank_within(*sizes, LEFT * size)
    tensors = {
        "weights": form.fit(weight, None, DAMPING)(rank),
        "data": form.fit(weight, layer.hessian, DAMPING)(rank),
    }
    if not isinstance(form, LowRank):
        key = f"data, {STEPS} steps"
        tensors[key] = refined(form, tensors["data"], weight, layer.hessian, STEPS)
    whole = layer.fresh.cost(weight).sum()
    costs = (form.parameters(*sizes, rank) / size, form.macs(*sizes, rank) / size)
    return {
        way: (*costs, float(layer.fresh.cost(weight - form.dense(some)).sum() / whole))
        for way, some in tensors.items()
    }


def is_wide(layer: Layer) -> bool:
    """Whether it is one of a feed-forward network: those of the attention are no wider than the
    stream."""
    outputs, inputs = layer.weight.shape
    return max(outputs, inputs) > 2 * min(outputs, inputs)


def linear_layers(subject: Subject, blocks: Sequence[int] | None = None) -> tuple[str, ...]:
    """The names of the linear layers of some blocks, or of all."""
    chain = repeated(subject.graph)
    chosen = range(len(chain)) if blocks is None else blocks
    return tuple(node.name for index in chosen for node in chain[index].nodes if weighted(node))


if __name__ == "__main__":
    publish(
        "structured",
        "Structured matrices for dense ones (A21)",
        SAYS,
        [
            "model",
            "form",
            "fitted to",
            "parameters",
            "products",
            "lost",
            "accuracy",
            "taught",
            "error",
        ],
        measure,
    )
