from __future__ import annotations

from typing import Any

import pytest
import torch
from graphs import fill

from regauge.ir import Graph, Node, parse
from regauge.ir.interpret import execute
from regauge.ir.sections import Section, sections
from regauge.passes import Context
from regauge.passes.quantization.streams import Compute, Flow, Values, run_streams

TEXT = """
def graph(x: f32[2, 8], *, a: f32[8, 8], b: f32[8, 8], c: f32[8, 8], d: f32[3, 8]):
    p: f32[2, 8] = linear(x, a)
    q: f32[2, 8] = linear(x, b)
    r: f32[2, 8] = relu(p)
    s: f32[2, 8] = mul(r, q)
    t: f32[2, 8] = add(s, x)
    u: f32[2, 8] = linear(t, c)
    v: f32[2, 8] = add(u, t)
    y: f32[2, 3] = linear(v, d)
    return y
"""
BATCHES = 3


def sample() -> tuple[Graph, Context]:
    graph = parse(TEXT)
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator)
    batches = [[torch.randn(2, 8, generator=generator)] for _ in range(BATCHES)]
    return graph, Context(inputs=batches[0], calibration=batches)


def halved(graph: Graph, node: Node) -> Compute:
    """A stand-in for quantization that can be followed by hand: half of what it was."""
    return lambda data: data @ graph.value(node.args[1]).T / 2


@pytest.mark.parametrize("in_memory", [0, 100, 2**20])
def test_both_streams_are_at_hand(in_memory: int) -> None:
    graph, context = sample()
    context.in_memory = in_memory
    seen: dict[str, tuple[list[Any], list[Any]]] = {}

    def visit(node: Node, exact: Values, quantized: Values) -> Compute | None:
        seen[node.name] = list(exact), list(quantized)
        return halved(graph, node) if node.name in "pu" else None

    targets = {graph[name]: 0 for name in "pquy"}
    run_streams(graph, context.calibration, targets, visit, context, "test")
    assert list(seen) == list("pquy")
    for i, batch in enumerate(context.calibration):
        values: dict[str, Any] = {}
        changed: dict[str, Any] = {}

        def half(node: Node, value: Any, changed: dict[str, Any] = changed) -> Any:
            changed[node.name] = value / 2 if node.name in "pu" else value
            return changed[node.name]

        execute(graph, batch, tap=lambda n, v, values=values: values.update({n.name: v}))
        execute(graph, batch, tap=half)
        for target, source in zip("pquy", "xxtv", strict=True):
            exact, quantized = seen[target]
            assert torch.equal(exact[i], values[source])
            torch.testing.assert_close(quantized[i], changed[source])
            assert (quantized[i] is exact[i]) == (source == "x") or in_memory < 2**20


def test_only_what_is_read_later_is_kept() -> None:
    graph, context = sample()
    held: list[int] = []

    def finish(section: Section, flow: Flow) -> None:
        held.append(flow.shelf.held)

    run_streams(
        graph,
        context.calibration,
        {graph[name]: 0 for name in "puy"},
        lambda *_: None,
        context,
        "test",
        sections=sections(graph, "layer"),
        finish=finish,
    )
    value = 2 * 8 * 4 * BATCHES  # bytes over all batches; nothing differs, so either stream's
    # After p: p. After u: what flowed into its section, p and q, then t and u. After y: u, t, v, y.
    assert [found / value for found in held] == [1, 4, 3 + 3 / 8]


@pytest.mark.parametrize("in_memory", [0, 2**20])
def test_what_a_section_is_made_to_give_goes_on(in_memory: int) -> None:
    graph, context = sample()
    context.in_memory = in_memory
    got: list[torch.Tensor] = []

    def visit(node: Node, exact: Values, quantized: Values) -> Compute | None:
        if node.name == "y":
            got.extend(quantized)
        return halved(graph, node)

    def finish(section: Section, flow: Flow) -> dict[Node, Values] | None:
        if graph["v"] not in section.exits:
            return None
        found = flow.shelf.series()
        for wanted in flow.wanted[graph["v"]]:
            found.append(wanted + 1)
        return {graph["v"]: found}

    targets = {graph[name]: 0 for name in "uy"}
    cut = [Section.of(graph.nodes[:7]), Section.of(graph.nodes[7:])]
    run_streams(
        graph, context.calibration, targets, visit, context, "test", sections=cut, finish=finish
    )
    for batch, found in zip(context.calibration, got, strict=True):
        kept: list[torch.Tensor] = []
        execute(graph, batch, tap=lambda n, v, kept=kept: kept.append(v) if n.name == "v" else None)
        assert torch.equal(found, kept[0] + 1)
