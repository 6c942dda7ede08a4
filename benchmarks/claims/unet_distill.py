"""A99, LAPTOP-Diff: what is left of a pruned U-Net learns from the whole one, by its outputs and by
the features between its stages, each term by its own power or as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from base import Figures, publish
from unet import BRANCHES, Diffusion, diffusion

from regauge.ir import Graph
from regauge.ir.interpret import values_of
from regauge.passes import Context, DropLayers, OutputChange
from regauge.passes.budget import IntegerProgramming
from regauge.passes.fitting import Fitter, Loss
from regauge.passes.structure.distill import Pupil, trained

PART, STEPS, RATE, SEEDS = 0.3, 300, 5e-3, 3
WAYS: dict[str, tuple[bool, Loss]] = {
    "the output alone": (False, "relative"),
    "squared errors": (True, "squared"),
    "normalised": (True, "relative"),
}
SAYS = (
    "The U-Net of [LAPTOP-Diff's page](laptop_diff.md) without 30 % of its parameters, by the "
    "knapsack. Claimed (A99): what is left learns from the whole model by its output and by the "
    "features between its stages, and each feature's error divided by its power balances the "
    "terms, of which one has most of the loss otherwise. 300 steps of 64 images and times along "
    "samples, means of 3 seeds (which differ by 1 % at most); {terms} terms: what stages and "
    "changes of size give, and the output. *Part*: of the loss over all terms, of the one with "
    "most and of the output, as squared errors and normalised, on other noise. *Step*, *images*: "
    "relative L2 error of single steps and of 256 images; *distance*: Frechet's to real digits. "
    "That features help is borne out: steps are 16 % nearer to the whole model's than by the "
    "output alone. That normalising balances is not, for there is nothing for it to balance: "
    "powers here go from {powers}, and the terms differ by what is lost at each, not by their "
    "size. What the middle gives, where layers went, has two thirds of either loss, and learning "
    "ends at the same errors. `Distill(features=True)` normalises, and takes for features the "
    "values between sections through which everything flows, in a U-Net fewer than here."
)


def measure() -> Figures:
    it = diffusion()
    step = DropLayers(
        PART,
        "parameters",
        kinds=BRANCHES,
        score=OutputChange("error", 4),
        solver=IntegerProgramming(),
        recover=False,
    )
    less, _ = step(it.graph, it.context)
    context = replace(it.context, original=it.graph)
    places = features(Pupil(less, it.graph, context, "features"))
    powers, before = terms(it, less, places)
    rows = [["before", *spread(powers, before), *it.figures(less)]]
    for way, (all_terms, loss) in WAYS.items():
        found: list[list[float]] = []
        for seed in range(SEEDS):
            graph = less.copy()
            learn(graph, replace(context, seed=seed), places if all_terms else (), loss)
            errors = terms(it, graph, places)[1]
            found.append([*spread(powers, errors), *it.figures(graph)])
            print(way, found[-1], [f"{e:.3g}" for e in errors], flush=True)
        means = [sum(column) / SEEDS for column in zip(*found, strict=True)]
        rows.append([way, *means])
    facts = {"terms": len(places), "powers": f"{min(powers):.2f} to {max(powers):.2f}"}
    return Figures(rows, facts)


def features(pupil: Pupil) -> list[str]:
    """What the stages and the changes of size give, where it is not what it was, and the output:
    images that are not read by the block that makes them alone."""
    order = pupil.single.nodes
    found: list[str] = []
    for node in pupil.goals:
        ends = {user.op for user in node.users} & {"cat", "upsample_nearest2d", "output"}
        if node.op in ("add", "conv2d") and ends:
            found.append(node.name)
    last = next(node for node in reversed(order) if node.op == "add" and node in pupil.goals)
    return [*found[:-1], last.name, found[-1]]


def learn(graph: Graph, context: Context, places: Sequence[str], loss: Loss) -> None:
    """The whole graph at once, as ``Distill(cut="graph")`` does, by these values or the output."""
    pupil = Pupil(graph, context.need_original("learning"), context, "learning")
    (section,) = pupil.parts("graph")
    if places:
        section = replace(section, exits=tuple(pupil.single[name] for name in places))
    fitter = Fitter(steps=STEPS, loss=loss)
    pupil.learn(section, list(trained(pupil.single, section, RATE)), fitter)


def terms(it: Diffusion, graph: Graph, places: Sequence[str]) -> tuple[list[float], list[float]]:
    """Of each place, on data that nothing was learned on: the mean square of what the whole model
    gives, and of the error."""
    powers, errors = dict.fromkeys(places, 0.0), dict.fromkeys(places, 0.0)
    for batch in it.others.calibration[:4]:
        wanted, found = taken(it.graph, batch, places), taken(graph, batch, places)
        for name in places:
            powers[name] += float(wanted[name].square().mean()) / 4
            errors[name] += float((found[name] - wanted[name]).square().mean()) / 4
    return list(powers.values()), list(errors.values())


def taken(graph: Graph, batch: Sequence[Any], places: Sequence[str]) -> dict[str, torch.Tensor]:
    """What values of a graph are, by name."""
    values = values_of(graph, batch, [graph[name] for name in places])
    return dict(zip(places, values, strict=True))


def spread(powers: Sequence[float], errors: Sequence[float]) -> list[float]:
    """The part of the loss that the greatest term has, and the output's: of squared errors, and of
    those by their powers."""
    parts: list[float] = []
    for values in (errors, [error / power for error, power in zip(errors, powers, strict=True)]):
        parts += [max(values[:-1]) / sum(values), values[-1] / sum(values)]
    return parts


if __name__ == "__main__":
    publish(
        "laptop_distill",
        "LAPTOP-Diff: learning by features, each by its own power",
        SAYS,
        (
            "learned by",
            "greatest feature's part of squares",
            "output's",
            "greatest feature's part, normalised",
            "output's",
            "step",
            "images",
            "distance",
        ),
        measure,
        script="unet_distill",
    )
