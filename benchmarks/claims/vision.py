"""What the pages on smaller vision models share: digits models made ready for removal, how they
learn afterwards, and what of it is told."""

from __future__ import annotations

from dataclasses import replace

import torch
import zoo
from base import Subject

from regauge.ir import Graph
from regauge.passes import CenterResidual, Distill, FoldBatchNorm, FoldNormAffine, Pass
from regauge.passes.fitting import Fitter
from regauge.passes.structure.costs import Costs

IMAGES = 1408  # to learn from, without labels
STEPS = 100
EXACT: tuple[Pass, ...] = (FoldBatchNorm(), FoldNormAffine(), CenterResidual())  # all may go then


def learned(subject: Subject, graph: Graph, steps: int = STEPS) -> Graph:
    """A graph that learned, as a whole, to give what the subject gives."""
    images = [[part] for part in zoo.digits().train[:IMAGES].split(32)]
    distill = Distill(Fitter(steps=steps), cut="graph", rate=1e-2)
    return replace(subject, calibration=images).after([distill], graph)


def products(subject: Subject, graph: Graph) -> float:
    """The share of the subject's products that a graph has."""
    inputs: list[torch.Tensor] = subject.calibration[0]
    return Costs(graph, [], inputs).macs() / Costs(subject.graph, [], inputs).macs()
