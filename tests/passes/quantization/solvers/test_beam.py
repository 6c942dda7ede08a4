from __future__ import annotations

from itertools import product

import pytest
import torch
from matrices import damage, layer

from regauge.ir.formats import named
from regauge.passes.quantization.solvers import GPTQ, RANGES, Grid, KBest
from regauge.passes.quantization.solvers.hessian import ORDERS, Order


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["int4-g8-asym", "int3-g8", "mxfp4", "nf4-g8"])
def test_it_does_less_damage_than_gptq(name: str, order: Order) -> None:
    weight, hessian = layer(columns=64)
    grid = Grid.of(named(name), weight, named(name).fit(weight))
    found = KBest(order=order, damp=0.0).solve(weight, hessian, grid).values
    plain = GPTQ(order, damp=0.0).solve(weight, hessian, grid).values
    cost = hessian.cost(found - weight)
    assert bool((cost <= hessian.cost(plain - weight)).all())
    assert float(cost.sum()) < 0.9 * damage(weight, plain, hessian)
    torch.testing.assert_close(grid.codes(found).dequantize(), found)


def test_wide_enough_it_finds_the_best() -> None:
    weight, hessian = layer(rows=5, columns=6)
    form = named("uniform1-channel")  # one bit: 64 rows there are, and as many paths
    grid = Grid.of(form, weight, RANGES["error"](form, weight, None))
    numbers = form.element.table.tolist()
    signs = torch.tensor(list(product(numbers, repeat=6)), dtype=torch.float64)
    least = torch.stack([hessian.cost(s * grid.step.T - weight) for s in signs]).amin(0)
    found = KBest(width=64, damp=0.0).solve(weight, hessian, grid).values
    torch.testing.assert_close(hessian.cost(found - weight), least)
    greedy = GPTQ(damp=0.0).solve(weight, hessian, grid).values
    assert bool((hessian.cost(greedy - weight) > 1.1 * least).any())


def test_a_beam_of_one_is_gptq_and_blocks_change_nothing() -> None:
    weight, hessian = layer()
    form = named("int3-g8")
    grid = Grid.of(form, weight, form.fit(weight))
    plain = GPTQ().solve(weight, hessian, grid).values
    assert torch.equal(KBest(width=1).solve(weight, hessian, grid).values, plain)
    one, all_ = (KBest(block=b).solve(weight, hessian, grid).values for b in (1, 64))
    assert torch.equal(one, all_)


def test_vectors_are_rounded_by_gptq() -> None:
    weight, hessian = layer()
    form = named("d4-channel")
    grid = Grid.of(form, weight, form.fit(weight))
    found = KBest().solve(weight, hessian, grid).values
    assert torch.equal(found, GPTQ().solve(weight, hessian, grid).values)
