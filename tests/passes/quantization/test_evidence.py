from __future__ import annotations

import pytest
import torch
from matrices import layer

from regauge.ir import InputError, Node, parse
from regauge.passes.quantization.evidence import DAMP, Evidence
from regauge.passes.quantization.solvers import making_up


def value() -> Node:
    return parse("def graph(x: f32[4]):\n    y: f32[4] = relu(x)\n    return y")["y"]


def streams() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Two batches of the exact stream and of the one at hand, means apart."""
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(30, 8, generator=generator, dtype=torch.float64) + 2 for _ in range(2)]
    return exact, [part * 1.1 + 0.3 for part in exact]


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("drifts", [0, 1, 2])
def test_products_are_those_of_all_rows(centered: bool, counted: bool, drifts: int) -> None:
    exact, at_hand = streams()
    generator = torch.Generator().manual_seed(1)
    counts = [torch.rand(30, generator=generator, dtype=torch.float64) for _ in range(2)]
    found = Evidence.of(
        value(),
        exact,
        at_hand,
        counts=counts if counted else None,
        centered=centered,
        drifts=drifts,
    )
    x, y = torch.cat(exact), torch.cat(at_hand)
    torch.testing.assert_close(found.mean_exact, x.mean(0))
    torch.testing.assert_close(found.mean, y.mean(0))
    if centered:
        x, y = x - x.mean(0), y - y.mean(0)
    weights = torch.cat(counts)[:, None] if counted else 1.0
    assert found.hessian is not None
    torch.testing.assert_close(found.hessian.matrix, y.T @ (weights * y))
    assert len(found.drifts) == drifts
    if drifts:
        cross = sum(drift.cross for drift in found.drifts)
        torch.testing.assert_close(cross, (x - y).T @ (weights * y))
        assert all(float(drift.hessian.norm()) > 0 for drift in found.drifts)


def test_a_weight_makes_up_for_a_share() -> None:
    exact, at_hand = streams()
    weight = layer(4, 8)[0]
    found = Evidence.of(value(), exact, at_hand, drifts=2)
    x, y = torch.cat(exact), torch.cat(at_hand)
    wanted = weight @ making_up((x - y).T @ y, y.T @ y, DAMP)
    torch.testing.assert_close(found.aim(weight, 0.25), weight + 0.25 * wanted)
    assert torch.equal(found.aim(weight, 0.0), weight)
    held_out = found.aim(weight, "held-out") - weight
    share = (held_out * wanted).sum() / wanted.square().sum()
    torch.testing.assert_close(held_out, share * wanted)
    assert 0 < float(share) <= 1
    assert torch.equal(Evidence.of(value(), exact, at_hand).aim(weight, 1.0), weight)


def test_of_too_few_rows_there_are_means_alone() -> None:
    exact, at_hand = streams()
    found = Evidence.of(value(), [exact[0][:7]], [at_hand[0][:7]], drifts=2)
    assert (found.count, found.hessian, found.drifts) == (7, None, ())
    torch.testing.assert_close(found.mean, at_hand[0][:7].mean(0))


def test_squares_beyond_the_dtype_are_refused_by_name() -> None:
    rows = [torch.full((9, 4), 1e30)]
    with pytest.raises(InputError, match="y is too great to be squared"):
        Evidence.of(value(), rows, rows)
