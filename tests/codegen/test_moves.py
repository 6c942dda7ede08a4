"""Loops that move numbers as an op does."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from regauge.codegen.c.moves import Loops, Rows, copies


def moved(found: list[Loops] | Rows, sources: list[Tensor], count: int) -> Tensor:
    """What the kernels do."""
    result = torch.full((count,), -1.0, dtype=torch.float64)
    if isinstance(found, Rows):
        source = sources[found.source].reshape(-1)
        return torch.cat([source[first : first + found.count] for first in found.first.tolist()])
    for part in found:
        pairs = [(part.first, part.into)]
        for times, step, on in part.loops:
            pairs = [(a + i * step, b + i * on) for a, b in pairs for i in range(times)]
        source = sources[part.source].reshape(-1)
        for a, b in pairs:
            result[b] = source[a]
    return result


OPS: dict[str, tuple[Callable[..., Tensor], int]] = {  # and how many copies they are
    "permute": (lambda x: x.permute(2, 0, 1), 1),
    "flip": (lambda x: x.flip(1, 2), 1),
    "step": (lambda x: x[:, ::2, 1::3], 1),
    "upsample": (lambda x: F.interpolate(x[None], scale_factor=(2, 3))[0], 1),
    "upsample by a fraction": (lambda x: F.interpolate(x[None], size=(6, 7))[0], 9),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x.reshape(1, 12, 2, 5), 2), 1),
    "channel_shuffle": (lambda x: F.channel_shuffle(x[None], 2), 1),
    "roll": (lambda x: x.roll(1, 1), 2),
    "reflect": (lambda x: F.pad(x[None], (1, 1, 2, 1), mode="reflect"), 9),
    "replicate": (lambda x: F.pad(x[None], (2, 2, 0, 0), mode="replicate"), 3),
    "zeros": (lambda x: F.pad(x, (1, 2, 0, 1), value=-1), 1),
    "expand": (lambda x: x[:, :1].expand(-1, 3, -1), 1),
}


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_an_op_that_moves_numbers_is_loops(name: str, channels_last: bool) -> None:
    op, wanted = OPS[name]
    x = torch.arange(120, dtype=torch.float64).reshape(6, 4, 5)
    places = op(x).long()
    if channels_last:
        places = places.movedim(0, -1)
    found = copies(places, [0, 120])
    assert isinstance(found, list) and len(found) == wanted
    assert torch.equal(moved(found, [x], places.numel()), places.reshape(-1).double())


def test_values_that_are_put_together_are_a_copy_each() -> None:
    x, y = torch.arange(24.0).double().reshape(2, 3, 4), torch.arange(24.0, 40).double()
    places = torch.cat([x, y.reshape(2, 2, 4)], 1)
    found = copies(places.movedim(1, -1).long(), [0, 24, 40])
    assert isinstance(found, list) and [part.source for part in found] == [0, 1]
    assert torch.equal(moved(found, [x, y], 40), places.movedim(1, -1).reshape(-1))


def test_what_no_few_loops_do_is_rows_by_their_places() -> None:
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    x = torch.arange(200 * 6, dtype=torch.float64).reshape(200, 6)
    found = copies(x[order].long(), [0, 200 * 6])
    assert isinstance(found, Rows) and found.count % 6 == 0 and len(found.first) <= 200
    assert torch.equal(moved(found, [x], 200 * 6), x[order].reshape(-1))


def test_numbers_of_several_values_in_no_order_are_neither() -> None:
    order = torch.randperm(128, generator=torch.Generator().manual_seed(0))
    assert copies(order, [0, 64, 128]) is None
