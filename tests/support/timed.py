"""A target whose clock is its own, so that times are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from regauge.ir import Graph
from regauge.passes.structure.costs import Costs


class Counting:
    """A run takes a second a product, as many more as ``late`` says, and one more than the run
    before.

    Attributes:
        seconds: What its clock says.
        ran: How often each graph that was lowered ran.
    """

    def __init__(self) -> None:
        self.seconds, self.ran = 0.0, list[int]()

    def lower(self, graph: Graph, **options: Any) -> Callable[[Sequence[Any]], Any]:
        number, seconds = len(self.ran), Costs(graph, []).macs() + options.get("late", 0.0)
        self.ran.append(0)

        def run(inputs: Sequence[Any]) -> None:
            assert isinstance(inputs[0], torch.Tensor)
            self.seconds += seconds + self.ran[number]
            self.ran[number] += 1

        return run

    def clock(self) -> float:
        return self.seconds
