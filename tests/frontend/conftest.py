"""Canonical form, tested as text before and text after, and on random numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch

from regauge.frontend.canonical import canonicalize, check
from regauge.ir import Graph, TensorType, astype, parse
from regauge.ir.types import evaluate

SIZES = {"b": 2, "s": 5, "n": 3, "t": 6}


def _random(type_: Any, generator: torch.Generator) -> Any:
    if not isinstance(type_, TensorType):
        return 3
    shape = [evaluate(size, SIZES) for size in type_.shape]
    if type_.dtype.is_floating_point:
        return torch.randn(shape, generator=generator, dtype=type_.dtype)
    return torch.randint(0, 2, shape, generator=generator).to(type_.dtype)


def _filled(text: str, params: dict[str, torch.Tensor]) -> Graph:
    graph = parse(text)
    generator = torch.Generator().manual_seed(0)
    for name, node in graph.params.items():
        given = params.get(name)
        graph.store[name] = _random(node.tensor, generator) if given is None else given
    return graph


@pytest.fixture
def becomes() -> Callable[..., Graph]:
    """``becomes(before, after)``: the canonical form of one text is the other, and computes the
    same.

    Parameters have random values unless given by name; those called ``buffer`` are no weights.
    """

    def compare(
        before: str,
        after: str,
        *,
        tolerance: float = 1e-12,
        **params: torch.Tensor,
    ) -> Graph:
        original, graph = _filled(before, params), _filled(before, params)
        learned = {n for n in graph.params if not n.startswith("buffer")}
        canonicalize(graph, learned=learned)
        graph.verify()
        check(graph)
        assert str(graph) == textwrap.dedent(after).strip()
        text = str(graph)
        canonicalize(graph, learned=learned)
        assert str(graph) == text, "a second time changes more"
        generator = torch.Generator().manual_seed(1)
        inputs = [_random(node.type, generator) for node in astype(original, torch.float64).inputs]
        for old, new in zip(
            _flat(astype(original, torch.float64).run(*inputs)),
            _flat(astype(graph, torch.float64).run(*inputs)),
            strict=True,
        ):
            torch.testing.assert_close(new, old, rtol=tolerance, atol=tolerance)
        return graph

    return compare


def _flat(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple) else [value]
