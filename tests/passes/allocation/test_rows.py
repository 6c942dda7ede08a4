"""Rows in two formats: the split is exact, and the rows are those that matter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graphs import fill

from regauge.ir import Graph, InputError, astype, parse
from regauge.ir.gauge import Region
from regauge.ir.interpret import execute
from regauge.passes import AllocateRows, Context, Quantize
from regauge.passes.allocation import Gradient, Measured
from regauge.passes.allocation.rows import free_orders, split_rows
from regauge.passes.manager import difference

TEXT = """
def graph(x: f32[6, 5, 32], *, w: f32[64, 32], c: f32[64], g: f32[48, 32], h: f32[48, 32],
          u: f32[32, 64], d: f32[32, 48]):
    a: f32[6, 5, 64] = linear(x, w, c)
    r: f32[6, 5, 64] = gelu(a)
    b: f32[6, 5, 32] = linear(r, u)
    s: f32[6, 5, 32] = add(x, b)
    i: f32[6, 5, 48] = linear(s, g)
    j: f32[6, 5, 48] = linear(s, h)
    k: f32[6, 5, 48] = mul(i, j)
    y: f32[6, 5, 32] = linear(k, d)
    return y
"""


def sample() -> tuple[Graph, Context]:
    graph = parse(TEXT)
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator, level=True)
    batches = [[torch.randn(6, 5, 32, generator=generator)] for _ in range(2)]
    return graph, Context(batches[0], batches)


def picked(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)) < 0.3


def test_the_split_is_exact() -> None:
    single, context = sample()
    graph = astype(single, torch.float64)
    inputs = [context.inputs[0].double()]
    wanted = execute(graph, inputs)
    plan = {graph[name]: picked(int(graph[name].shape[-1]), i) for i, name in enumerate("abijy")}
    free = free_orders(graph, plan)
    # i and j write one class; the stream's order, of b, is that of the input; y is an output.
    assert [reader.name for reader in free] == ["a"]
    for reader, rows in plan.items():
        best, rest = split_rows(graph, reader, rows, region=free.get(reader))
        assert best is not None and rest is not None
        assert best.shape[-1] == int(rows.sum()) and rest.shape[-1] == int((~rows).sum())
    graph.verify()
    assert difference(execute(graph, inputs), wanted) < 1e-12
    assert sum(node.op == "index_select" for node in graph.nodes) == 4


def test_a_layer_of_one_kind_of_rows_stays() -> None:
    graph, _ = sample()
    before = str(graph)
    reader = graph["a"]
    assert split_rows(graph, reader, torch.ones(64, dtype=torch.bool)) == (reader, None)
    assert split_rows(graph, reader, torch.zeros(64, dtype=torch.bool)) == (None, reader)
    assert str(graph) == before


def test_a_class_that_one_layer_writes_may_have_any_order() -> None:
    graph, _ = sample()
    rows = {graph["i"]: picked(48, 1)}  # j's rows follow, and d's columns
    free = free_orders(graph, rows)
    assert isinstance(free[graph["i"]], Region)


@pytest.mark.parametrize("over", ["all", "layer", "chance"])
def test_so_many_weights_are_in_better_rows(over: Any) -> None:
    graph, context = sample()
    options = Quantize(None, rounding="nearest", correct_bias=False)
    allocate = AllocateRows(
        0.2,
        "int3-g16-asym",
        "int8-channel",
        over,
        Gradient(probes=16),
        options,
    )
    assert allocate.formats == ("int3-g16-asym",)
    new, remarks = allocate(graph, context)
    weights = {n: graph[n].args[1].tensor.shape for n in "abijy"}
    rows = {remark.site: remark.data["rows"] for remark in remarks if "rows" in remark.data}
    total = sum(int(o) * int(i) for o, i in weights.values())
    spent = sum(rows[n] * int(weights[n][1]) for n in "abijy") / total
    assert 0.17 < spent <= 0.2
    if over == "layer":
        assert all(0.15 < rows[n] / int(weights[n][0]) <= 0.2 for n in "abijy")
    decoded = sum(n.tensor.shape[0] for n in new.nodes if n.op == "decode")  # type: ignore[misc]
    assert decoded == sum(int(weights[n][0]) - rows[n] for n in "abijy")


def test_rows_that_matter_do_less_damage() -> None:
    graph, context = sample()
    # The first layer has rows of which some are a hundred times as great, the others have not.
    order = torch.randperm(64, generator=torch.Generator().manual_seed(4))
    graph.store["w"] = graph.store["w"] * torch.logspace(-2, 0.5, 64)[order][:, None]
    options = Quantize(None, rounding="nearest", correct_bias=False)

    def error(over: Any) -> float:
        step = AllocateRows(
            0.15,
            "int3-g16-asym",
            over=over,
            score=Gradient(probes=16),
            quantize=options,
        )
        new, _ = step(graph, context)
        return difference(execute(new, context.inputs), execute(graph, context.inputs))

    best, layers, chance = map(error, ("all", "layer", "chance"))
    assert best < layers < chance


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"part": 1.5}, "part: a number from 0 to 1"),
        ({"part": -0.1}, "part: a number from 0 to 1"),
        ({"over": "layers"}, "'all', 'layer', 'chance'"),
        ({"low": None}, "low: a name"),
        ({"score": Measured()}, "score: an object of the class Gradient"),
        ({"quantize": "gptq"}, "quantize: an object of the class Quantize"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        AllocateRows(**options)
