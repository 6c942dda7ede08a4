"""A82, FinerCut: attentions and feed-forward networks left out one after another, each by what the
model's outputs lose with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import zoo
from base import Figures, Subject, publish, smollm2

import regauge as rg
from regauge.ir import Graph
from regauge.passes import Context, DropLayers
from regauge.passes.structure.costs import Costs
from regauge.passes.structure.depth.layer_scores import OutputChange
from regauge.passes.structure.depth.layers import LayerKind, layers

SAYS = (
    "{subject}. Claimed (A82): attentions and feed-forward networks, each a layer of its own, go "
    "one after another, each time that without which the model's output distribution changes "
    "least (Jensen-Shannon), which keeps more than whole blocks at the same number of parameters."
    " Scored on 4 windows of 64 tokens; a layer whose changes have come to more than another's "
    "sum is not run on further windows. *By what each parameter saved costs*, ours: what a layer "
    "adds to the divergence counts by its parameters. At once, by divergence: the same score, "
    "once. *Of each*: "
    "attentions and feed-forward networks that went, of 30. *Bridged*, ours: the last linear map "
    "before each gap makes up for it. Not borne out as published, since an attention has a third "
    "of the parameters: to have as many gone, twelve layers go where eight do, at 36.9 against "
    "29.7 of four whole blocks. By what each parameter saved costs it is, at 26.4, and bridged at "
    "23.3 against 24.1; with twice as much gone the two are level plain, and blocks are ahead "
    "bridged. One after another is far better than at once. In order went (a: attention, f: "
    "feed-forward network, by block): {order}; by parameters: {by_size}; at once: {at_once}."
)
KINDS: tuple[LayerKind, ...] = ("attention", "feedforward")
PARTS = (0.1, 0.2)
LAYERS = 20  # of 60, which are a fifth of the parameters and more
WINDOWS, LENGTH = 4, 64  # that single layers are left out on


def measure() -> Figures:
    subject = smollm2(8, 8)
    rows: list[list[Any]] = [["none", "", 1.0, subject.quality(subject.graph), ""]]
    short, context = _short(subject)
    score, of = OutputChange("divergence", WINDOWS), "parameters"
    order = _went(short, context, DropLayers(LAYERS / 60, score=score, greedy=True))
    print(order, flush=True)
    by_size = _went(short, context, DropLayers(max(PARTS), of, score=score, greedy=True))
    print(by_size, flush=True)
    at_once = _went(short, context, DropLayers(max(PARTS), of, score=score))
    similar = _went(subject.graph, subject.context, DropLayers(max(PARTS), of))
    for part in PARTS:
        for way, names in (
            ("one after another, by divergence (FinerCut)", order),
            ("the same, by what each parameter saved costs", by_size),
            ("at once, by divergence", at_once),
            ("at once, by similarity (LLM-Drop, both lists)", similar),
            ("blocks, by similarity", None),
        ):
            rows.append([way, *_figures(subject, part, names)])
            print(rows[-1], flush=True)
    facts = {
        "subject": subject.title,
        "order": _told(short, order),
        "by_size": _told(short, by_size),
        "at_once": _told(short, at_once),
    }
    return Figures(rows, facts)


def _short(subject: Subject) -> tuple[Graph, Context]:
    """The same graph on shorter windows, one a batch: layers have the same names."""
    model, tokenizer = zoo.smollm2()
    model.config.use_cache = False
    windows = zoo.text_windows(tokenizer, WINDOWS, LENGTH, "calibration").split(1)
    graph = rg.trace(model, (), {"input_ids": windows[0]})
    assert [node.name for node in graph.nodes] == [node.name for node in subject.graph.nodes]
    return graph, Context(inputs=[windows[0]], calibration=[[window] for window in windows])


def _went(graph: Graph, context: Context, step: DropLayers) -> list[str]:
    """What goes of the sub-layers, in the order in which it goes."""
    return replace(step, recover=False)(graph, context)[1][-1].data["gone"]


def _figures(subject: Subject, part: float, names: Sequence[str] | None) -> list[Any]:
    """What went, parameters left, and the perplexity, plain and bridged."""
    if names is None:
        steps = [
            DropLayers(part, "parameters", kinds=("block",), recover=recover)
            for recover in (False, True)
        ]
    else:
        sizes = _sizes(subject.graph)
        counts = range(1, len(names) + 1)
        goal = part * Costs(subject.graph, []).parameters()
        count = next(n for n in counts if sum(sizes[name] for name in names[:n]) >= goal)
        steps = [
            DropLayers(1 - 0.5 / count, sites=tuple(names[:count]), recover=recover)
            for recover in (False, True)
        ]
    graphs = [subject.after([step]) for step in steps]
    left = Costs(graphs[0], []).parameters() / Costs(subject.graph, []).parameters()
    return [_count(graphs[0]), left, *map(subject.quality, graphs)]


def _sizes(graph: Graph) -> dict[str, int]:
    found = layers(graph, ("attention", "feedforward"), Costs(graph, []))
    return {layer.name: layer.parameters for layer in found}


def _count(graph: Graph) -> str:
    kinds = Counter(layer.kind for layer in layers(graph, KINDS, Costs(graph, [])))
    return " + ".join(str(30 - kinds[kind]) for kind in KINDS)


def _told(graph: Graph, names: Sequence[str]) -> str:
    """Layers as ``a7`` and ``f7``: the attention and the feed-forward network of the eighth
    block."""
    said: dict[str, str] = {}
    for kind in KINDS:
        for index, layer in enumerate(layers(graph, (kind,), Costs(graph, []))):
            said[layer.name] = f"{kind[0]}{index}"
    return ", ".join(said[name] for name in names)


if __name__ == "__main__":
    publish(
        "finer_cut",
        "FinerCut: attentions and feed-forward networks as layers of their own",
        SAYS,
        ("what goes", "of each", "parameters", "perplexity", "bridged"),
        measure,
    )
