"""Choose one of several exact passes by what the quantized model then loses (SmoothQuant+, A56).

    min over passes p  of  sum_t |f(x_t; Q(p(W)), Q(x')) - f(x_t; W)|^2 / sum_t |f(x_t; W)|^2

f is the whole graph and Q quantization, simulated, as it will be. One number for the whole model
that is searched in this way overfits little, and it knows what a site's own error does not: how
errors add up on their way to the outputs. The best is made of the graph, if it beats leaving it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from ...ir import Graph, InputError, astype
from ...ir.interpret import execute
from ..base import Context, Pass, Promise, Remark, Stage, decided, missed
from ..options import BITS, COUNT, check_numbers
from ..quantization.simulated import Simulation, floats, squared_error
from ..quantization.values import Activations, format_of
from .smooth import Smooth

ALPHAS = tuple(i / 20 for i in range(21))


@dataclass(frozen=True)
class ChooseBest(Pass):
    """Run the one of these passes under which the quantized graph errs least.

    Args:
        candidates: Exact passes, tried each by itself.
        activations: How activations will be quantized; ``None``: not at all.
        bits: Of the weights.
        group: How many neighbouring weights will share a scale; all of a row where not given.
    """

    candidates: tuple[Pass, ...]
    activations: Activations | None = None
    bits: int = 4
    group: int | None = 128
    stage: ClassVar[Stage] = Stage.GAUGE

    def __post_init__(self) -> None:
        format_of(self.activations)  # raises where there is no such format
        check_numbers(self, bits=BITS, group=COUNT | None)
        for candidate in self.candidates:
            if candidate.promise is not Promise.EXACT or candidate.stage > self.stage:
                raise InputError(
                    f"{candidate.name} cannot be chosen by what quantization loses after it",
                    do="give passes that are exact and come before quantization",
                )

    def run(self, graph: Graph, context: Context) -> list[Remark]:
        batches = context.need_calibration(self.name)
        exact = astype(graph, torch.float32)
        wanted = [floats(execute(exact, batch)) for batch in batches]
        least, best = self._loss(exact, context, wanted), None
        start, losses = least, list[float]()
        for candidate in context.progress(self.candidates, f"{self.name}: trying"):
            own = replace(context, journal=context.journal.inside(f"candidate-{len(losses)}"))
            tried, _ = candidate.attempt(exact, own)
            losses.append(self._loss(tried, context, wanted))
            if losses[-1] < least:
                least, best = losses[-1], candidate
        data = {"error_before": start, "errors": losses}
        if best is None:
            text = f"left as it is: none of {len(losses)} passes lowers the error of {start:.2g}"
            return [missed(graph.output, text, **data)]
        text = f"{best}: the quantized graph's error {start:.2g} to {least:.2g}"
        return [decided(graph, text, **data), *best.run(graph, context)]

    def _loss(self, graph: Graph, context: Context, wanted: Sequence[list[torch.Tensor]]) -> float:
        """The relative error of the outputs once the graph is quantized."""
        simulation = Simulation.of(
            graph,
            context,
            self.name,
            activations=self.activations,
            bits=self.bits,
            group=self.group,
        )
        return squared_error(graph, context.calibration, wanted, simulation.reading()) ** 0.5


def smooth_quant_plus(bits: int = 4, group: int | None = 128) -> ChooseBest:
    """SmoothQuant+ (A56): one exponent for the whole model, searched in steps of 0.05 by the loss
    of the whole model; for weights alone."""
    candidates = tuple(
        Smooth(False, "power", (alpha,), None, bits, group, insert=False) for alpha in ALPHAS
    )
    return ChooseBest(candidates, None, bits, group)
