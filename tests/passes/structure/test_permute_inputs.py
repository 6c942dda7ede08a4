"""Channels in an order in which a pattern of zeros keeps more."""

from __future__ import annotations

import itertools

import pytest
import torch
from graphs import filled

from regauge.ir import InputError
from regauge.ir.interpret import execute
from regauge.passes import Context, PermuteInputs, Sparsify
from regauge.passes.manager import difference
from regauge.passes.patterns import NofM
from regauge.passes.structure.sparsity.permute_inputs import best_order, kept

HIDDEN = """
def graph(x: f64[256, 8], *, a: f64[16, 8], b: f64[6, 16], c: f64[5, 16]):
    h: f64[256, 16] = linear(x, a)
    z: f64[256, 16] = relu(h)
    y: f64[256, 6] = linear(z, b)
    w: f64[256, 5] = linear(z, c)
    return y, w
"""


@pytest.mark.parametrize("pattern", [NofM(1, 2), NofM(2, 3), NofM(1, 3)])
@pytest.mark.parametrize("seed", range(4))
def test_swaps_come_near_the_best_order_of_all(pattern: NofM, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    worth = torch.randn(5, 6, generator=generator, dtype=torch.float64).square()
    order, before, after = best_order(worth, pattern, [torch.arange(6)])
    best = max(kept(worth[:, list(one)], pattern) for one in itertools.permutations(range(6)))
    total = float(worth.sum())
    assert sorted(order.tolist()) == list(range(6))
    assert before == pytest.approx(kept(worth, pattern) / total)
    assert after == pytest.approx(kept(worth[:, order], pattern) / total)
    assert before <= after <= best / total * (1 + 1e-12)
    assert after > 0.95 * best / total


def test_channels_keep_to_their_cells() -> None:
    worth = torch.rand(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cells = [torch.arange(0, 8, 2), torch.arange(1, 8, 2)]
    order, before, after = best_order(worth, NofM(2, 4), cells)
    assert after > before
    assert (order % 2 == torch.arange(8) % 2).all()


@pytest.mark.parametrize("data", [True, False])
def test_nothing_changes_but_what_zeros_cost(data: bool) -> None:
    graph, inputs = filled(HIDDEN)
    for name in ("b", "c"):  # the worth lies in neighbours
        graph.store[name] = graph.store[name] * torch.tensor([9.0, 9, 9, 1] * 2 + [1.0] * 8)
    context = Context(inputs=inputs, calibration=[[inputs[0].float()]] if data else [])
    better, remarks = PermuteInputs()(graph, context)
    outputs = execute(better, inputs), execute(graph, inputs)
    assert difference(*outputs) < 1e-12
    (done,) = (r for r in remarks if r.applied)
    assert done.site == "z"
    assert done.data["after"] > done.data["before"]
    step = Sparsify(None, "2:4", "magnitude", "none", sites=("y", "w"), least=1)
    worse = difference(execute(step(graph, context)[0], inputs), outputs[1])
    assert difference(execute(step(better, context)[0], inputs), outputs[1]) < worse


def test_says_what_pins_an_order() -> None:
    graph, inputs = filled(HIDDEN)
    _, remarks = PermuteInputs().attempt(graph, Context(inputs=inputs))
    assert [r.site for r in remarks if not r.applied] == ["x"]


def test_says_which_groups_divide_the_inputs() -> None:
    graph, inputs = filled(HIDDEN)
    _, remarks = PermuteInputs("2:5").attempt(graph, Context(inputs=inputs))
    said = {r.site: r.text for r in remarks if not r.applied}
    assert said["z"] == "groups of 5 do not divide its 16 inputs; 4, 8 or 16 do"


def test_refuses_patterns_that_see_no_order() -> None:
    with pytest.raises(InputError, match="does not matter to the pattern rows"):
        PermuteInputs("rows")
