"""Heads whose classes share rows: exact where there are no more kinds of rows, and ties broken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from graphs import filled

from regauge.backends.onnxruntime import lower
from regauge.ir import Graph, InputError, SiteError, astype, parse
from regauge.ir.interpret import execute
from regauge.passes import ClusterOutputs, Context
from regauge.passes.structure.costs import Costs
from regauge.passes.structure.factors.cluster_outputs import TieBreak
from regauge.passes.structure.factors.clusters import clusters, means

HEAD = """
def graph(x: f64[4, 50, 8], *, a: f64[8, 8], w: f64[40, 8]):
    h: f64[4, 50, 8] = linear(x, a)
    y: f64[4, 50, 40] = linear(h, w)
    return y
"""
TIED = """
def graph(i: i64[4, 50], *, e: f64[40, 8], a: f64[8, 8]):
    x: f64[4, 50, 8] = embedding(e, i)
    h: f64[4, 50, 8] = linear(x, a)
    y: f64[4, 50, 40] = linear(h, e)
    p: f64[4, 50, 40] = softmax(y, dim=-1)
    return p
"""


def head(kinds: int | None = None) -> tuple[Graph, Context]:
    """A head of 40 classes; of so many kinds of rows."""
    graph, inputs = filled(HEAD)
    if kinds is not None:
        graph.store["w"] = graph.store["w"][torch.arange(40) % kinds]
    return graph, Context(inputs=inputs, calibration=[inputs])


def divergence(found: Graph, graph: Graph, inputs: Sequence[Any]) -> float:
    """Kullback and Leibler's, of what the heads' logits say, on average."""
    first, second = (execute(g, inputs)[0].log_softmax(-1) for g in (graph, found))
    return float((first.exp() * (first - second)).sum(-1).mean())


@pytest.mark.parametrize("bias", ["none", "mean", "distribution"])
def test_as_many_codes_as_kinds_of_rows_are_exact(bias: TieBreak) -> None:
    graph, context = head(kinds=5)
    found, _ = ClusterOutputs(5, bias)(graph, context)
    torch.testing.assert_close(
        execute(found, context.inputs), execute(graph, context.inputs), rtol=1e-4, atol=1e-4
    )


def test_the_head_is_a_gather_of_fewer_logits() -> None:
    graph, context = head()
    found, remarks = ClusterOutputs(10)(graph, context)
    assert [node.op for node in found.nodes] == ["linear", "linear", "index_select", "add"]
    assert found["y"].shape == (4, 50, 40)
    assert Costs(found, []).macs() == 200 * (8 * 8 + 10 * 8)
    assert remarks[0].site == "y" and remarks[0].text.startswith("10 rows for 40, ")
    single = astype(found, torch.float32)
    inputs = [context.inputs[0].float()]
    torch.testing.assert_close(lower(single)(inputs), execute(single, inputs), rtol=1e-4, atol=1e-4)


def test_a_bias_for_each_class_breaks_ties() -> None:
    """h has a mean, so classes of one cluster are not equally likely."""
    graph, _ = head()
    random = torch.Generator().manual_seed(2)
    inputs = [torch.randn(4, 50, 8, generator=random, dtype=torch.float64) * 0.3 + 0.5]
    context = Context(inputs=inputs, calibration=[inputs])
    ways: tuple[TieBreak, ...] = ("none", "mean", "distribution")
    lost = [divergence(ClusterOutputs(8, w)(graph, context)[0], graph, inputs) for w in ways]
    assert lost[2] < lost[1] < 0.8 * lost[0]
    means_ = [
        execute(ClusterOutputs(8, w)(graph, context)[0], inputs)[0].mean((0, 1)) for w in ways
    ]
    wanted = execute(graph, inputs)[0].mean((0, 1))
    torch.testing.assert_close(means_[1], wanted, rtol=0, atol=1e-5)
    chances = [
        execute(g, inputs)[0].softmax(-1).mean((0, 1))
        for g in (ClusterOutputs(8)(graph, context)[0], graph)
    ]
    torch.testing.assert_close(chances[0], chances[1], rtol=2e-2, atol=0)


def test_likely_classes_count_for_more() -> None:
    graph, context = head()
    graph.store["w"][:4] *= 3.0
    lost = [
        divergence(ClusterOutputs(12, likely=likely)(graph, context)[0], graph, context.inputs)
        for likely in (True, False)
    ]
    assert lost[0] < lost[1]


def test_a_tied_table_stays() -> None:
    tied, random = parse(TIED), torch.Generator().manual_seed(0)
    for name, param in tied.params.items():
        shape = [int(size) for size in param.shape]
        tied.store[name] = torch.randn(shape, generator=random, dtype=torch.float64)
    batch = [torch.arange(200).reshape(4, 50) % 40]
    found, remarks = ClusterOutputs(10)(tied, Context(inputs=batch, calibration=[batch]))
    assert remarks[0].text.endswith("; e stays, as x reads it")
    assert torch.equal(found.store["e"], tied.store["e"])
    assert found["p"].args[0].op == "add"


def test_only_heads_unless_others_are_asked_for() -> None:
    graph, context = head()
    found, _ = ClusterOutputs(4)(graph, context)
    assert torch.equal(found.store["a"], graph.store["a"])
    found, _ = ClusterOutputs(4, sites=("h",))(graph, context)
    assert "w" in found.params and "a" not in found.params


def test_what_makes_no_sense() -> None:
    graph, context = head()
    with pytest.raises(SiteError, match="it has only 40 outputs"):
        ClusterOutputs(40)(graph, context)
    with pytest.raises(InputError, match="codes=0 is not"):
        ClusterOutputs(0)
    with pytest.raises(InputError, match="not broken by 'luck'"):
        ClusterOutputs(4, "luck")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="ClusterOutputs needs calibration data"):
        ClusterOutputs(4)(graph)


# -- clusters -------------------------------------------------------------------------------------


def test_means_are_weighted() -> None:
    rows = torch.tensor([[0.0], [4.0], [7.0]])
    found = means(rows, torch.tensor([0, 0, 1]), 2, torch.tensor([1.0, 3.0, 2.0]))
    torch.testing.assert_close(found, torch.tensor([[3.0], [7.0]]))


def test_no_cluster_is_empty() -> None:
    rows = torch.cat([torch.zeros(20, 2), torch.eye(2)])
    found = clusters(rows, 5, 10, torch.Generator().manual_seed(0), torch.ones(22))
    assert sorted(set(found.tolist())) == [0, 1, 2, 3, 4]


def test_each_row_is_in_the_nearest_cluster() -> None:
    random = torch.Generator().manual_seed(1)
    rows, power = torch.randn(300, 4, generator=random), torch.rand(300, generator=random)
    found = clusters(rows, 7, 100, random, power)
    distance = torch.cdist(rows, means(rows, found, 7, power))
    assert torch.equal(distance.argmin(1), found)


@pytest.mark.parametrize("name", ["y", "w"])
def test_a_head_that_is_protected_stays(name: str) -> None:
    graph, context = head(kinds=5)
    same, (remark,) = ClusterOutputs(5, protect=(name,)).attempt(graph, context)
    assert remark.text == f"{name} is protected" and str(same) == str(graph)
