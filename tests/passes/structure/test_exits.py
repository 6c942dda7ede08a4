"""Outputs after some of the blocks, through the norm and the head behind the last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import ZooModel

import regauge as rg
from regauge.ir import InputError, astype, parse
from regauge.passes import DropLayers
from regauge.passes.manager import difference
from regauge.passes.structure.depth.exits import with_exits

Outputs = Callable[..., list[torch.Tensor]]


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "vit"])
def test_an_exit_gives_what_the_first_blocks_give(
    family: str, zoo_model: Callable[[str], ZooModel], graph_outputs: Outputs
) -> None:
    zoo = zoo_model(family)
    graph = astype(rg.trace(zoo.model, zoo.args, zoo.kwargs), torch.float64)
    exits = with_exits(graph, [1])
    exits.verify()
    step = DropLayers(0.5, kinds=("block",), score="position", recover=False)
    first, _ = step(graph)
    whole, early = (graph_outputs(g, zoo.args, zoo.kwargs) for g in (graph, first))
    found = graph_outputs(exits, zoo.args, zoo.kwargs)
    assert difference(found[: len(whole)], whole) == 0
    assert difference(found[len(whole) :], early) < 1e-9
    assert difference(whole, early) > 1e-3
    assert exits.store.bytes() == graph.store.bytes()


def test_outputs_come_in_the_form_of_the_models(zoo_model: Callable[[str], ZooModel]) -> None:
    zoo = zoo_model("llama")
    graph = rg.trace(zoo.model, zoo.args, zoo.kwargs)
    whole, early = with_exits(graph, [1]).run(*zoo.args, **zoo.kwargs)
    assert type(whole) is type(early)
    assert early.logits.shape == whole.logits.shape


def test_exits_compile(zoo_model: Callable[[str], ZooModel]) -> None:
    zoo = zoo_model("llama")
    exits = with_exits(rg.trace(zoo.model, zoo.args, zoo.kwargs), [1])
    artifact = rg.compile(exits, zoo.args, zoo.kwargs, target="torch")
    found, wanted = artifact(*zoo.args, **zoo.kwargs), exits.run(*zoo.args, **zoo.kwargs)
    for some, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(some.logits, other.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [0, 2])
def test_there_is_an_exit_only_between_blocks(count: int, traced: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=f"no exit after {count} blocks: the graph has 2"):
        with_exits(traced("llama"), [count])


def test_an_output_from_elsewhere_is_refused() -> None:
    graph = parse(
        """
def graph(x: f64[4, 6], n: i64[4], *, a: f64[6, 6], b: f64[6, 6], o: f64[3, 6]):
    h: f64[4, 6] = linear(x, a)
    i: f64[4, 6] = relu(h)
    k: f64[4, 6] = linear(i, b)
    l: f64[4, 6] = relu(k)
    y: f64[4, 3] = linear(l, o)
    return y
"""
    )
    assert len(with_exits(graph, [1]).outputs) == 2
    graph.returns(*graph.outputs, graph["n"])
    with pytest.raises(InputError, match="n is an output that does not come from the last block"):
        with_exits(graph, [1])
    graph.returns(graph["y"], graph["i"])
    with pytest.raises(InputError, match="i is an output that does not come from the last block"):
        with_exits(graph, [1])
