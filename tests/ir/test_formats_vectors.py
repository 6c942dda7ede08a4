"""Vector codebooks: the points of lattices, the nearest of them, and phases."""

from __future__ import annotations

import pytest
import torch

from regauge.ir import InputError
from regauge.ir.formats import Phase, VectorCodebook, lattice, named, nearest_d, nearest_e8

# How many points of D4 and E8 have the square 2 k: their theta series.
D4 = (1, 24, 24, 96, 24)
E8 = (1, 240, 2160)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("name", "shells"), [("d4", D4), ("e8", E8)])
def test_a_lattice_codebook_is_its_shortest_points(name: str, shells: tuple[int, ...]) -> None:
    table = lattice(name).table
    assert table.shape == (255, int(name[1]))
    squares = table.square().sum(1)
    assert len({tuple(point) for point in table.tolist()}) == 255
    left = 255
    for k, count in enumerate(shells):
        assert int((squares == 2 * k).sum()) == min(count, left)
        left -= min(count, left)
    # every point is one of the lattice, and its opposite is there too
    near = nearest_d(table) if name == "d4" else nearest_e8(table)
    assert torch.equal(near, table)
    assert {tuple(point) for point in (-table + 0.0).tolist()} == {
        tuple(point) for point in (table + 0.0).tolist()
    }


@pytest.mark.parametrize("name", ["d4", "e8"])
def test_the_nearest_of_the_codebook_is_found_by_trying_all(name: str) -> None:
    book = lattice(name)
    values = normal(3000, book.dimension) * 1.3
    found = (book.decode(book.encode(values), torch.float64) - values).norm(dim=1)
    torch.testing.assert_close(found, torch.cdist(values, book.table).amin(1))


@pytest.mark.parametrize(("name", "count"), [("d4", 25), ("e8", 241)])
def test_what_is_near_a_point_is_rounded_to_it(name: str, count: int) -> None:
    book = lattice(name)
    codes = torch.arange(3000) % count  # the whole shells
    noise = normal(3000, book.dimension)
    noise = noise / noise.norm(dim=1, keepdim=True) * 0.7  # the points are √2 apart
    values = book.table[codes] + noise
    near = nearest_d(values) if name == "d4" else nearest_e8(values)
    assert torch.equal(near, book.table[codes])
    assert torch.equal(book.encode(values), codes.to(torch.uint8))


def test_the_nearest_of_a_lattice_is_closer_than_its_neighbours() -> None:
    for name, nearest in (("d4", nearest_d), ("e8", nearest_e8)):
        steps = lattice(name).table  # the neighbours in a Voronoi cell are among the shortest
        values = normal(2000, steps.shape[1]) * 5
        near = nearest(values)
        gaps = torch.cdist((values - near), steps)
        assert bool((gaps[:, 0] <= gaps.amin(1) + 1e-12).all())
        assert torch.equal(nearest(near), near)


def test_a_phase_is_the_nearest_of_four() -> None:
    values = normal(2000, 2)
    phase = Phase()
    codes = phase.encode(values)
    assert torch.equal(codes, (values @ phase.table.T).argmax(1).to(torch.uint8))
    assert phase.encode(torch.tensor([[1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]])).tolist() == [0, 2, 0]


def test_scales_of_phases_are_the_means_of_what_they_keep() -> None:
    values = normal(64, 48)
    found = named("phase").fit(values)
    pairs = values.reshape(-1, 2)
    real = pairs[:, 0].abs() >= pairs[:, 1].abs()
    wanted = torch.stack([pairs[real, 0].abs().mean(), pairs[~real, 1].abs().mean()])
    torch.testing.assert_close(found.scale, wanted.float().double())


def test_vectors_need_their_numbers_side_by_side() -> None:
    with pytest.raises(InputError, match="vectors of 8 do not fill groups of 12"):
        named("e8-g12").fit(normal(2, 24))
    with pytest.raises(InputError, match="an axis of 10 does not divide into groups of 4"):
        named("d4").fit(normal(2, 10))
    assert named("d4-tensor-pad").quantize(normal(2, 10)).codes.shape == (2, 3)
    with pytest.raises(InputError, match="it cannot be the channels'"):
        named("d4-channel@1").fit(normal(2, 8))


def test_a_codebook_of_vectors_has_points_of_one_dimension() -> None:
    with pytest.raises(InputError):
        VectorCodebook("uneven", ((0.0,), (1.0, 2.0)))
