"""One check for every pass: text before and after, the input untouched, outputs equal."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent

import pytest
import torch

from regauge.ir import Graph, parse
from regauge.ir.interpret import execute
from regauge.passes import Context, Pass, Remark


def fill(graph: Graph, seed: int = 0) -> list[torch.Tensor]:
    """Give a parsed graph random float64 parameters, and make inputs for it."""
    generator = torch.Generator().manual_seed(seed)
    for name, node in graph.params.items():
        shape = [int(size) for size in node.shape]
        value = torch.randn(shape, generator=generator, dtype=torch.float64)
        graph.store[name] = value.abs() + 0.5 if name.startswith("v") else value
    inputs: list[torch.Tensor] = []
    for node in graph.inputs:
        shape = [int(size) for size in node.shape]
        if node.dtype.is_floating_point:
            inputs.append(torch.randn(shape, generator=generator, dtype=torch.float64))
        else:
            inputs.append(torch.randint(0, 3, shape, generator=generator))
    return inputs


@pytest.fixture
def check_pass() -> Callable[..., list[Remark]]:
    def check(
        step: Pass, before: str, after: str | Callable[[str], str] | None = None
    ) -> list[Remark]:
        graph = parse(before)
        inputs = fill(graph)
        printed = str(graph)
        wanted = execute(graph, inputs)
        result, remarks = step.attempt(graph, Context(inputs=inputs, calibration=[inputs]))
        assert str(graph) == printed, "the pass changed its input"
        if callable(after):
            assert str(result) == after(printed)
        else:
            assert str(result) == dedent(after if after is not None else before).strip()
        # Exact over the reals; float64 sums of a few dozen terms differ by less than this.
        torch.testing.assert_close(execute(result, inputs), wanted, rtol=1e-11, atol=1e-11)
        return remarks

    return check
