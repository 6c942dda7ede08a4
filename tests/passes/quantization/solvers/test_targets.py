from __future__ import annotations

import torch
from matrices import layer

from regauge.passes.quantization.solvers import Drift, held_out_share, making_up


def streams(rows: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact inputs, and those at hand: mixed, with noise that does not follow from anything."""
    generator = torch.Generator().manual_seed(1)
    exact = torch.randn(rows, 40, generator=generator, dtype=torch.float64)
    mix = torch.eye(40, dtype=torch.float64) + 0.1 * torch.rand(40, 40, generator=generator)
    return exact, exact @ mix + noise * torch.randn(rows, 40, generator=generator).double()


def drift(exact: torch.Tensor, at_hand: torch.Tensor) -> Drift:
    found = Drift.none(40)
    found.add(at_hand, exact - at_hand)
    return found


def test_making_up_gives_back_what_the_exact_inputs_gave() -> None:
    weight, _ = layer()
    exact, at_hand = streams(500, 0.0)  # all of the error follows from the inputs
    seen = drift(exact, at_hand)
    found = weight + weight @ making_up(seen.cross, seen.hessian, 0)
    torch.testing.assert_close(at_hand @ found.T, exact @ weight.T, rtol=0, atol=1e-9)
    damped = weight @ making_up(seen.cross, seen.hessian, 1.0)
    assert 0 < float(damped.norm()) < float((found - weight).norm())
    assert not bool(making_up(torch.zeros(40, 40).double(), seen.hessian, 0.3).any())


def test_all_of_it_without_damping_is_least_squares() -> None:
    weight, _ = layer()
    exact, at_hand = streams(500, 0.5)
    at_hand[:, 7] = 0  # a dead channel: of all solutions, the one of the least norm
    seen = drift(exact, at_hand)
    found = weight + weight @ making_up(seen.cross, seen.hessian, 0)
    live = [i for i in range(40) if i != 7]
    wanted = torch.linalg.lstsq(at_hand[:, live], exact @ weight.T).solution.T
    torch.testing.assert_close(found[:, live], wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(found[:, 7], weight[:, 7])


def test_the_share_is_the_best_on_rows_left_out() -> None:
    weight, _ = layer()
    exact, at_hand = streams(100, 0.3)
    halves = [drift(exact[:50], at_hand[:50]), drift(exact[50:], at_hand[50:])]

    def error(share: float) -> float:
        total = 0.0
        for one, rows in ((halves[0], slice(50, 100)), (halves[1], slice(0, 50))):
            aim = weight + share * weight @ making_up(one.cross, one.hessian, 0.3)
            total += float((exact[rows] @ weight.T - at_hand[rows] @ aim.T).square().sum())
        return total

    share = held_out_share(weight, halves, 0.3)
    assert 0 < share < 1
    assert all(error(share) <= error(share + step) for step in (-0.01, 0.01))


def test_the_share_is_all_where_all_follows_and_none_where_nothing_does() -> None:
    weight, _ = layer()
    exact, at_hand = streams(2000, 0.0)
    halves = [drift(exact[:1000], at_hand[:1000]), drift(exact[1000:], at_hand[1000:])]
    assert held_out_share(weight, halves, 1e-6) > 0.999
    same = [drift(exact[:1000], exact[:1000]), drift(exact[1000:], exact[1000:])]
    assert held_out_share(weight, same, 0.3) == 0
