"""A24: is what down projections read easier to quantize once it is smoothed, rotated, or both?

x W' = (x S^-1 R) (W S R)',   S diagonal, R orthogonal
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from base import Figures, Subject, publish, smollm2
from scipy.stats import pearsonr, spearmanr

from regauge.ir import Graph, Node
from regauge.ir.formats import named
from regauge.ir.gauge import Region, Site, apply, inputs_of_contractions, transport
from regauge.ir.interpret import execute
from regauge.ir.laws import Kind
from regauge.passes import Choice, Quantize, Rotate
from regauge.passes.calibration import Observation, observe

ROWS, WEIGHTS = "int4-token", "int4-channel"
ALPHAS = (0.2, 0.5)
SAYS = (
    "{subject}: scales follow from the one, figures from the other. Claimed (A24): what down "
    "projections read is easiest to quantize once it is smoothed and then rotated, most in the "
    "layers that are hardest, and the spread of the norms of its channels tells how hard it is. "
    f"The {{layers}} down projections alone have {WEIGHTS} weights and read {ROWS} values, to the "
    "nearest, simulated. Errors of their results are relative to those without a gauge, geometric "
    "means. Borne out with the exponent 1/2: perplexity is 72 as they are, 52 smoothed, 24.5 "
    "rotated and 19.5 with both, and the hardest layer has a third of its error left where "
    "rotation leaves 0.69; but over the layers the hybrid gains a seventh on rotation, and is "
    "better in 16 of {layers}. The exponent 0.2 is worse than none. The squared spread goes with "
    "the squared error of the layers as they are (rank correlation {ranks_plain:.2f}, linear "
    "{linear_plain:.2f}) and over all ways ({ranks_every:.2f}, {linear_every:.2f})."
)


@dataclass
class Layer:
    """A down projection on the other text.

    Attributes:
        error: The squared error of its results in four bits, summed.
        spread: The standard deviation of the norms of the channels that it reads: what the paper
            calls the difficulty of quantization.
    """

    error: float
    spread: float


def measure() -> Figures:
    subject = smollm2(4, 4)
    graph = subject.graph
    readers = [reader for site in gated(graph) for reader in site.readers]
    names = tuple(reader.name for reader in readers)
    turn = Rotate(residual=None, heads=None, inputs=True, sites=names)
    smooth = {f"smoothed, exponent {alpha}": smoothed(subject, alpha) for alpha in ALPHAS}
    ways: dict[str, Graph] = {
        "as they are": graph,
        **smooth,
        "rotated": subject.after([turn]),
        **{f"{way}, then rotated": subject.after([turn], found) for way, found in smooth.items()},
    }
    found = {way: layers(subject, changed, names) for way, changed in ways.items()}
    plain, turned = found["as they are"], found["rotated"]
    hardest = max(range(len(plain)), key=lambda i: plain[i].error)
    rows: list[list[Any]] = [["floating point", "", "", "", subject.quality(graph)]]
    for way, changed in ways.items():
        logs = [math.log(a.error / b.error) / 2 for a, b in zip(found[way], plain, strict=True)]
        better = sum(a.error < b.error for a, b in zip(found[way], turned, strict=True))
        mean, most = math.exp(sum(logs) / len(logs)), math.exp(logs[hardest])
        step = Quantize(
            ROWS,
            WEIGHTS,
            "nearest",
            ranges="range",
            correct_bias=False,
            embeddings=False,
            choices={reader: Choice(None, None) for reader in others(changed, names)},
        )
        rows.append([way, mean, most, better, subject.quality(subject.after([step], changed))])
        print(rows[-1], flush=True)
    facts: dict[str, Any] = {"subject": subject.title, "layers": len(plain), "hardest": hardest}
    for name, some in (("plain", plain), ("every", [a for part in found.values() for a in part])):
        squares, errors = [a.spread**2 for a in some], [a.error for a in some]
        linear: Any = pearsonr(squares, errors)
        ranks: Any = spearmanr(squares, errors)
        facts |= {f"linear_{name}": float(linear[0]), f"ranks_{name}": float(ranks[0])}
    print(facts)
    return Figures(rows, facts)


def gated(graph: Graph) -> list[Site]:
    """What linear layers read that is a product of two values: behind a gated activation."""
    return [site for site in inputs_of_contractions(graph) if site.value.op == "mul"]


def others(graph: Graph, names: tuple[str, ...]) -> list[str]:
    """The readers of weights that are not called so."""
    return [
        reader.name
        for site in inputs_of_contractions(graph)
        for reader in site.readers
        if reader.name not in names
    ]


def smoothed(subject: Subject, alpha: float) -> Graph:
    """A copy whose gated products are divided by SmoothQuant's scales, whether that helps or not;
    the projections beside the gates take them up."""
    graph = subject.graph.copy()
    seen: dict[str, Observation] = observe(
        graph, subject.context, {site.value.name: -1 for site in gated(graph)}, "smoothing"
    )
    for site in gated(graph):
        region = transport(graph, site.value, Kind.SCALE)
        assert isinstance(region, Region), region
        columns = graph.value(site.readers[0].args[1]).abs().amax(0).clamp(min=1e-5)
        peak = seen[site.value.name].absmax.clamp(min=1e-5)
        apply(graph, region, (peak**alpha / columns ** (1 - alpha)).double())
    return graph


def layers(subject: Subject, graph: Graph, names: tuple[str, ...]) -> list[Layer]:
    """What four bits do to each down projection, on one batch of the text to judge by."""
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def read(reader: Node, used: Node, value: Any) -> Any:
        if reader.name in names and used is reader.args[0]:
            found[reader.name] = value.flatten(0, -2), graph.value(reader.args[1])
        return value

    def run(batch: list[Any]) -> torch.Tensor:
        return execute(graph, batch, read=read)[0]

    with torch.no_grad():
        subject.judge(run)
    return [layer(*found[name]) for name in names]


def layer(rows: torch.Tensor, weight: torch.Tensor) -> Layer:
    of_rows, of_weights = named(ROWS), named(WEIGHTS)
    codes = of_rows.quantize(rows).dequantize() @ of_weights.quantize(weight).dequantize().T
    error = float((codes - rows @ weight.T).square().sum())
    return Layer(error, float(rows.norm(dim=0).std()))


if __name__ == "__main__":
    publish(
        "smooth_rotate",
        "Smoothing, rotation and both before four bits (A24, SmoothRotate)",
        SAYS,
        (
            "what down projections read",
            "error, mean over layers",
            "error of the hardest layer",
            "layers better than rotated",
            "perplexity",
        ),
        measure,
    )
