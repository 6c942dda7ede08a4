"""Layers in another order: what the model itself computes with its layers so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graphs import filled
from small_models import zoo_model

import regauge as rg
from regauge.ir import InputError, astype
from regauge.ir.interpret import execute
from regauge.passes import Context, Reorder
from regauge.passes.manager import difference

BRANCHES = """
def graph(x: f64[16, 6], *, a: f64[6, 6], b: f64[6, 6], c: f64[6, 6], o: f64[3, 6]):
    h: f64[16, 6] = linear(x, a)
    i: f64[16, 6] = relu(h)
    r: f64[16, 6] = add(x, i)
    j: f64[16, 6] = linear(r, b)
    k: f64[16, 6] = tanh(j)
    s: f64[16, 6] = add(r, k)
    l: f64[16, 6] = linear(s, c)
    m: f64[16, 6] = gelu(l)
    t: f64[16, 6] = add(s, m)
    y: f64[16, 3] = linear(t, o)
    return y
"""


def reordered(x: torch.Tensor, store: Any, order: tuple[int, ...]) -> torch.Tensor:
    functions = [("a", torch.relu), ("b", torch.tanh), ("c", torch.nn.functional.gelu)]
    for index in order:
        name, function = functions[index]
        x = x + function(x @ store[name].T)
    return x @ store["o"].T


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (2, 1, 0)])
def test_branches_follow_one_another_in_the_order_asked_for(order: tuple[int, ...]) -> None:
    graph, (x,) = filled(BRANCHES)
    new, (remark,) = Reorder(order, kinds=("feedforward",))(graph, Context(inputs=[x]))
    (found,) = execute(new, [x])
    torch.testing.assert_close(found, reordered(x, graph.store, order), rtol=1e-12, atol=1e-12)
    assert remark.applied and "one after the other" in remark.text


@pytest.mark.parametrize("cache", [False, True])
def test_blocks_of_a_decoder(cache: bool) -> None:
    model: Any = zoo_model("llama").model
    ids = torch.randint(3, 99, (2, 8), generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"cache": True} if cache else {"kwargs": {"use_cache": False}}
    art = rg.compile(model, {"input_ids": ids}, passes=[Reorder((1, 0))], target="torch", **options)
    turned: Any = zoo_model("llama").model
    layers = turned.model.layers
    turned.model.layers = torch.nn.ModuleList([layers[1], layers[0]])
    with torch.no_grad():
        wanted = turned(ids, use_cache=False).logits
    found = art(input_ids=ids).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    if cache:
        head = art(input_ids=ids[:, :3])
        rest = art(input_ids=ids[:, 3:], past_key_values=head.past_key_values)
        torch.testing.assert_close(rest.logits, wanted[:, 3:], rtol=1e-4, atol=1e-5)


def test_what_is_read_in_between_stays() -> None:
    graph, (x,) = filled(BRANCHES)
    graph.returns(*graph.outputs, graph["r"])
    same, (remark,) = Reorder((1, 0, 2), kinds=("feedforward",)).attempt(graph, Context(inputs=[x]))
    assert not remark.applied and remark.text == "output reads r too"
    assert difference(execute(same, [x]), execute(astype(graph, torch.float64), [x])) == 0


def test_a_layer_that_is_protected_keeps_its_place() -> None:
    graph, (x,) = filled(BRANCHES)
    context = Context(inputs=[x])
    options: dict[str, Any] = {"kinds": ("feedforward",), "protect": ("b",)}
    same, (remark,) = Reorder((1, 0, 2), **options).attempt(graph, context)
    assert remark.text == "b is protected, and the order moves it" and str(same) == str(graph)
    found, _ = Reorder((2, 1, 0), **options)(graph, context)
    plain, _ = Reorder((2, 1, 0), kinds=("feedforward",))(graph, context)
    assert str(found) == str(plain)


@pytest.mark.parametrize("order", [(0,), (0, 0), (0, 2), (1, 2)])
def test_orders_that_are_none(order: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="does not name each of two layers or more once"):
        Reorder(order)


def test_an_order_of_other_length_says_how_many_there_are() -> None:
    graph, (x,) = filled(BRANCHES)
    with pytest.raises(InputError, match="3 layers follow one another, and order names 2"):
        Reorder((1, 0), kinds=("feedforward",))(graph, Context(inputs=[x]))
    _, (remark,) = Reorder((1, 0)).attempt(graph, Context(inputs=[x]))
    assert remark.text == "it has no block that could follow another"
