"""Graphs as modules."""

from __future__ import annotations

import torch
from graphs import feed, make


def test_parameters_may_be_called_as_methods_are() -> None:
    graph = make("x: f32[n, 4], *, to: f32[4], type: f32[4]",
                 "y: f32[n, 4] = mul(x, to)", "z: f32[n, 4] = add(y, type)")  # fmt: skip
    (x,) = feed(graph)
    torch.testing.assert_close(graph.to_module()(x), x * graph.store["to"] + graph.store["type"])
