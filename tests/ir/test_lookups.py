"""Tables that an embedding shares with a head."""

from __future__ import annotations

import pytest
import torch
from graphs import fill

from regauge.ir import Graph, parse
from regauge.ir.gauge import Region, apply, ties_broken, transport, with_lookups
from regauge.ir.interpret import execute
from regauge.ir.laws import Kind

TIED = """
def graph(t: i64[2, 5], *, w: f64[40, 8], g: f64[8], u: f64[8, 8]):
    e: f64[2, 5, 8] = embedding(w, t)
    a: f64[2, 5, 8] = linear(e, u)
    h: f64[2, 5, 8] = add(e, a)
    n: f64[2, 5, 8] = rms_norm(h, g, normalized_shape=(8,))
    y: f64[2, 5, 40] = linear(n, w)
    return y
"""


def graph_of(text: str) -> Graph:
    graph = parse(text)
    fill(graph, torch.Generator().manual_seed(0))
    return graph


def region_of(graph: Graph, kind: Kind) -> Region:
    found = transport(graph, next(n for n in graph.nodes if n.name == "n"), kind)
    assert isinstance(found, Region)
    return found


def run(graph: Graph) -> torch.Tensor:
    return execute(graph, [torch.arange(10).reshape(2, 5)])[0]


@pytest.mark.parametrize("kind", [Kind.SCALE, Kind.SIGN])
def test_what_is_looked_up_gets_its_original_back_and_the_tie_stays(kind: Kind) -> None:
    graph = graph_of(TIED)
    before = run(graph)
    region = region_of(graph, kind)
    assert [tie.param for tie in ties_broken(graph, region)] == ["w"]
    found = with_lookups(graph, region)
    assert not ties_broken(graph, found)
    element = torch.linspace(0.2, 5, 8, dtype=torch.float64)
    if kind is Kind.SIGN:
        element = torch.where(element > 2, 1.0, -1.0).double()
    old = graph.value(graph.params["w"]).clone()
    apply(graph, found, element)
    names = [node.name for node in graph.nodes]
    assert names.count("e_original") == 1 and list(graph.params) == ["w", "g", "u", "e_scale"]
    torch.testing.assert_close(graph.value(graph.params["w"]), old * element)
    torch.testing.assert_close(run(graph), before, rtol=1e-12, atol=1e-12)


OTHERS = TIED.replace(
    "    return y",
    "    p: f64[2, 5, 40] = linear(e, w)\n    z: f64[2, 5, 40] = add(y, p)\n    return z",
)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        pytest.param(Kind.SHIFT, TIED.replace("rms_norm(h, g,", "layer_norm(h, g, g,"), id="shift"),
        pytest.param(Kind.ORTHOGONAL, TIED.replace("rms_norm(h, g,", "rms_norm(h,"), id="turn"),
        pytest.param(Kind.SCALE, OTHERS, id="multiplied elsewhere too"),
    ],
)
def test_elsewhere_the_region_stays_as_it_is(kind: Kind, text: str) -> None:
    graph = graph_of(text)
    found = transport(graph, next(n for n in graph.nodes if n.name == "n"), kind, insert=True)
    assert isinstance(found, Region)
    assert with_lookups(graph, found) is found
