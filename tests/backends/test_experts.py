"""Mixtures of experts: each row is multiplied by the matrix of its group."""

from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch

from regauge.backends.onnxruntime import lower
from regauge.ir import Graph
from regauge.ir.interpret import execute

Make: TypeAlias = Callable[..., Graph]


@pytest.mark.parametrize("ends", [[2, 2, 7], [0, 7, 7], [7, 7, 7], [0, 0, 3]])
def test_groups_may_be_empty_and_rows_may_have_none(ends: list[int], graph_of: Make) -> None:
    graph = graph_of(
        "x: f32[n, 8], e: i32[3], *, w: f32[3, 8, 4]", "y: f32[n, 4] = grouped_mm(x, w, e)"
    )
    x = torch.randn(7, 8, generator=torch.Generator().manual_seed(0))
    inputs = [x, torch.tensor(ends, dtype=torch.int32)]
    found, wanted = lower(graph)(inputs), execute(graph, inputs)
    torch.testing.assert_close(found, wanted)
    assert not wanted[0][ends[-1] :].any()
    group = next((i for i, end in enumerate(ends) if end > 0))
    torch.testing.assert_close(wanted[0][0], x[0] @ graph.store["w"][group])
