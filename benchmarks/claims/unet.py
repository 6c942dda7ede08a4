"""A68, LD-Pruner, and A99, LAPTOP-Diff: what can be left out of a diffusion model's U-Net.

The graph is one step of the sampler. What is made by many steps is scored by ``SampledChange``,
whose sampler is a function of the model; what single steps read, for other scores and for what
makes up for a gap, is taken along the way of the whole model's samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import zoo
from base import Figures, publish
from torch.nn import functional as F

import regauge as rg
from regauge.ir import Graph
from regauge.ir.interpret import execute
from regauge.passes import Context, DropLayers, OutputChange, Position, SampledChange
from regauge.passes.budget import IntegerProgramming
from regauge.passes.manager import difference
from regauge.passes.structure.costs import Costs
from regauge.passes.structure.depth.layer_scores import LayerScore, Run
from regauge.passes.structure.depth.layers import Layer, LayerKind, apart, layers

BATCH, SAMPLES, PARTS = 64, 256, (0.15, 0.3)
OPERATORS: tuple[LayerKind, ...] = ("operator", "attention")
BRANCHES: tuple[LayerKind, ...] = ("feedforward", "attention")


@dataclass(frozen=True)
class Chance(LayerScore):
    """Worth drawn at random."""

    seed: int = 0

    def of(
        self,
        graph: Graph,
        layers: Sequence[Layer],
        context: Context,
        whole: Graph | None = None,
    ) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(len(layers), generator=generator, dtype=torch.float64)


class Diffusion:
    """A trained U-Net, what its steps read on the way from noise to images, and how good images
    are."""

    def __init__(self) -> None:
        model = zoo.digits_unet()
        self.graph = rg.trace(model, (noise(0), torch.zeros(BATCH, dtype=torch.int64)))
        self.context, self.others = (self._along(model, seed) for seed in (0, 1))
        self.made = self.images(self.graph)
        self.judge = rg.trace(zoo.digits_resnet(), (zoo.digits().train[:BATCH],))
        self.real = self._features(F.avg_pool2d(zoo.digits().train, 2))

    def _along(self, model: torch.nn.Module, seed: int) -> Context:
        """What the model is called with by the sampler, steps mixed; a batch has all of them."""
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        zoo.sample_digits(model, noise(seed), watch=lambda x, t: seen.append((x, t)))
        images, times = (torch.cat(part) for part in zip(*seen, strict=True))
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        batches = [[images[some], times[some]] for some in order.split(BATCH)[:8]]
        return Context(inputs=batches[0], calibration=batches)

    def images(self, graph: Graph) -> torch.Tensor:
        """Images from noise that no score has seen."""
        with torch.no_grad():
            return torch.cat(
                [
                    sampled(lambda inputs: execute(graph, inputs), seed)
                    for seed in range(2, 2 + SAMPLES // BATCH)
                ]
            )

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        """What a classifier's head reads of images, ``float64[n, features]``."""
        head = self.judge.outputs[0].args[0].name  # type: ignore[union-attr]
        found: list[torch.Tensor] = []

        def tap(node: Any, value: Any) -> None:
            if node.name == head:
                found.append(value.double())

        large = F.interpolate(images.clamp(-1, 1), scale_factor=2.0, mode="bilinear")
        for batch in large.split(BATCH):
            if len(batch) == BATCH:
                execute(self.judge, [batch], tap=tap)
        return torch.cat(found)

    def distance(self, images: torch.Tensor) -> float:
        """Frechet's between the classifier's features of images and of the training data."""
        found, real = self._features(images), self.real
        first, second = torch.cov(found.T), torch.cov(real.T)
        root = torch.linalg.eigvals(first @ second).real.clamp(min=0).sqrt().sum()
        means = (found.mean(0) - real.mean(0)).square().sum()
        return float(means + first.trace() + second.trace() - 2 * root)

    def step_error(self, graph: Graph) -> float:
        """Relative L2 error of single steps along samples that no score has seen."""
        with torch.no_grad():
            pairs = [
                (execute(graph, batch)[0], execute(self.graph, batch)[0])
                for batch in self.others.calibration[:4]
            ]
        found, wanted = (torch.cat(part) for part in zip(*pairs, strict=True))
        return difference([found], [wanted])

    def left(self, graph: Graph) -> list[float]:
        """The parts of the parameters and of the products."""
        pairs = zip(Costs(graph, []).both(), Costs(self.graph, []).both(), strict=True)
        return [now / before for now, before in pairs]

    def figures(self, graph: Graph) -> list[float]:
        """Error of a step, of images from the same noise, and the distance from real ones."""
        images = self.images(graph)
        return [self.step_error(graph), difference([images], [self.made]), self.distance(images)]


def noise(seed: int) -> torch.Tensor:
    return torch.randn(BATCH, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def sampled(run: Run, seed: int = 0) -> torch.Tensor:
    return zoo.sample_digits(lambda x, t: run([x, t])[0], noise(seed))


@cache
def diffusion() -> Diffusion:
    return Diffusion()


def correlation(some: torch.Tensor, others: torch.Tensor) -> float:
    """Spearman's: of ranks."""
    ranks = [values.argsort().argsort().double() for values in (some, others)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


# -- A68 -----------------------------------------------------------------------------------------

MODEL = (
    "A U-Net of 257 k parameters, trained for 600 steps on scikit-learn's digits (8 x 8); 20 steps "
    "of DDIM, nothing random in them; nothing trained after layers are left out. "
)
OPERATORS_SAY = (
    MODEL
    + "Claimed (A68): an operator (convolution, linear map, norm, attention; {count} here) is worth"
    " |change of the mean| + |change of the deviation| of what is generated from fixed noise "
    "without it, and the least go first. The graph is one step; `SampledChange` takes the "
    "sampler, a function of the model, and so scores what all steps make. Scores of single steps "
    "read what the whole model reads along its samples, 4 batches for 20 runs. Of the parameters "
    "15 %, then 30 %, are to go. *Step*, *images*: relative L2 error of single steps and of 256 "
    "images, from noise that no score has seen; *distance*: Frechet's, of a digit classifier's "
    "features to those of the training images. What goes by any score harms images far less than "
    "what goes by chance. The published score is the best of the four at 15 % (images 0.119, "
    "others 0.183 to 0.231) and no better than others at 30 % (0.278; 0.276 to 0.334). Single "
    "steps rank operators much alike: Spearman's {steps} for the same statistic, {step_error} for"
    " the error. At 30 % images keep to their noise, but the distance is hardly better than "
    "chance's: so much does not go without training, which the paper has and which is not done "
    "here. Its figures for Stable Diffusion (time, FID) are not tested."
)


def operators() -> Figures:
    it = diffusion()
    found = layers(it.graph, OPERATORS, Costs(it.graph, []))
    scores: dict[str, LayerScore] = {
        "means and deviations of samples (LD-Pruner)": SampledChange(sampled),
        "means and deviations of single steps": OutputChange("statistics", 4),
        "error of samples": SampledChange(sampled, "error"),
        "error of single steps": OutputChange("error", 4),
    }
    worth = {way: score.of(it.graph, found, it.context) for way, score in scores.items()}
    rows: list[list[Any]] = [["nothing", 0, 1.0, 1.0, *it.figures(it.graph)]]
    for part in PARTS:
        for way in scores:
            rows.append([way, *_without(it, part, Known(tuple(worth[way].tolist())))])
            print(rows[-1], flush=True)
        some = [_without(it, part, Chance(seed)) for seed in range(5)]
        rows.append(["at random, the median of 5", *torch.tensor(some).median(0).values.tolist()])
        print(rows[-1], flush=True)
    first, *rest = worth.values()
    ranks = [correlation(first, other) for other in rest]
    names = ("steps", "error", "step_error")
    facts = {name: f"{value:.2f}" for name, value in zip(names, ranks, strict=True)}
    return Figures(rows, {"count": len(found), **facts})


@dataclass(frozen=True)
class Known(LayerScore):
    """Worth that was found before."""

    worth: tuple[float, ...] = ()

    def of(
        self,
        graph: Graph,
        layers: Sequence[Layer],
        context: Context,
        whole: Graph | None = None,
    ) -> torch.Tensor:
        return torch.tensor(self.worth, dtype=torch.float64)


def _without(it: Diffusion, part: float, score: LayerScore) -> list[float]:
    step = DropLayers(part, "parameters", kinds=OPERATORS, score=score, recover=False)
    less, remarks = step(it.graph, it.context)
    return [len(remarks[-1].data["gone"]), *it.left(less), *it.figures(less)]


# -- A99 -----------------------------------------------------------------------------------------

BRANCHES_SAY = (
    MODEL
    + "Claimed (A99): the squared errors of the outputs without single layers add up, so that which"
    " of them go is a knapsack over parameters, better than other ways and than layers picked by "
    "hand. Layers are attentions and what convolutions add to a shortcut; of those that lie in "
    "each other, or are the two terms of one sum, one at most goes (a unit with several choices)."
    " Errors of single steps, read along samples of the whole model. *Images*: relative L2 error "
    "of 256 images from noise that no score has seen; *distance*: Frechet's, of a digit "
    "classifier's features to those of the training images. Additive: over 40 draws of 2 to 5 of "
    "{layers} layers the sum and the joint error, on other noise, have a Pearson correlation of "
    "{linear} and a Spearman of {ranks}; the joint one is {ratio} times the sum (median). With 30"
    " % of the parameters to go the knapsack is the best (0.127; one after another 0.154, with 3 "
    "% fewer left, the middle ones 0.232, the least first 0.234); with 15 % one after another is "
    "(0.066; 0.072). By the distance the least first are nearest to real digits in both, against "
    "their own errors: a set of 256 images tells little there. *Bridged*, ours: the last map "
    "before a gap makes up for it where nobody else reads what it gives, which in a U-Net is the "
    "rarer case, since what the way down makes the way up reads; with the knapsack's 15 % there "
    "is no such gap. Where there are some the error falls by 4 to 46 %, but rises where the last "
    "layers go. Distillation has a [page of its own](laptop_distill.md); the paper's figures are "
    "not tested."
)


def branches() -> Figures:
    it = diffusion()
    score = OutputChange("error", 4)
    ways: dict[str, dict[str, Any]] = {
        "knapsack (LAPTOP-Diff)": {"score": score, "solver": IntegerProgramming()},
        "the least first": {"score": score},
        "one after another": {"score": score, "greedy": True},
        "by hand: the middle ones": {"score": Position("symmetric")},
        "by hand: the last ones": {"score": Position("top")},
        "by hand: every second": {"score": Position("alternate")},
    }
    rows: list[list[Any]] = [["nothing", 1.0, *it.figures(it.graph)[1:], "", ""]]
    for part in PARTS:
        for way, options in ways.items():
            found: list[Any] = []
            for recover in (False, True):
                step = DropLayers(part, "parameters", kinds=BRANCHES, recover=recover, **options)
                less, remarks = step(it.graph, it.context)
                bridged = sum("makes up" in r.text and "nothing" not in r.text for r in remarks)
                found += [*it.figures(less)[1:]]
            rows.append([way, it.left(less)[0], *found])
            print(rows[-1], bridged, flush=True)
    return Figures(rows, _additivity(it, score))


def _additivity(it: Diffusion, score: LayerScore, draws: int = 40) -> dict[str, str]:
    """How the sum of single errors goes with the error of several layers gone at once."""
    whole = [
        max(g, key=lambda x: len(x.nodes))
        for g in apart(layers(it.graph, BRANCHES, Costs(it.graph, [])))
    ]
    alone = score.of(it.graph, whole, it.context)
    generator = torch.Generator().manual_seed(0)
    sums, joint = list[float](), list[float]()
    for draw in range(draws):
        picked = torch.randperm(len(whole), generator=generator)[: 2 + draw % 4]
        names = tuple(whole[index].name for index in picked)
        step = DropLayers(
            1 - 0.5 / len(names), kinds=BRANCHES, sites=names, score="position", recover=False
        )
        less, _ = step(it.graph, it.context)
        sums.append(float(alone[picked].sum()))
        joint.append(it.step_error(less) ** 2)
    pairs = torch.tensor([sums, joint], dtype=torch.float64)
    return {
        "layers": str(len(whole)),
        "ranks": f"{correlation(*pairs):.2f}",
        "linear": f"{float(torch.corrcoef(pairs)[0, 1]):.2f}",
        "ratio": f"{float((pairs[1] / pairs[0]).median()):.2f}",
    }


if __name__ == "__main__":
    publish(
        "ld_pruner",
        "LD-Pruner: operators of a diffusion model left out",
        OPERATORS_SAY,
        ("worth by", "operators", "parameters", "products", "step", "images", "distance"),
        operators,
        script="unet",
    )
    publish(
        "laptop_diff",
        "LAPTOP-Diff: layers of a diffusion model left out as a knapsack",
        BRANCHES_SAY,
        ("way", "parameters", "images", "distance", "images, bridged", "distance, bridged"),
        branches,
        script="unet",
    )
