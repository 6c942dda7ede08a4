"""Statistics are of the data: padding does not count, nor does the cut into batches."""

from __future__ import annotations

import pytest
import torch

from regauge.ir import Graph, InputError, parse
from regauge.passes import Context, Quantize
from regauge.passes.calibration import Observation, as_rows, observe, padding_mask

TEXT = """
def graph(t: i64[n, s], m: i64[n, s], *, e: f32[50, 32], w: f32[64, 32]):
    assert 1 <= n
    assert 1 <= s
    x: f32[n, s, 32] = embedding(e, t)
    y: f32[n, s, 64] = linear(x, w)
    return y
"""
PAD = 49  # its embedding is far larger than any other


def sample() -> Graph:
    graph = parse(TEXT)
    generator = torch.Generator().manual_seed(0)
    graph.store["e"] = torch.randn(50, 32, generator=generator)
    graph.store["e"][PAD] = 1000
    graph.store["w"] = torch.randn(64, 32, generator=generator)
    return graph


def batches() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The same text padded to a length, and as it is."""
    ids = torch.randint(0, PAD, (3, 12), generator=torch.Generator().manual_seed(1))
    padding = torch.full((3, 4), PAD)
    mask = torch.cat([torch.ones_like(ids), torch.zeros_like(padding)], 1)
    return [torch.cat([ids, padding], 1), mask], [ids, torch.ones_like(ids)]


def scale_of(graph: Graph) -> torch.Tensor:
    (node,) = (node for node in graph.nodes if node.op == "quantize")
    return graph.value(node.args[1])


def test_padding_does_not_count() -> None:
    padded, plain = batches()
    scales = [
        scale_of(Quantize("static", embeddings=False)(sample(), Context(b, calibration=[b]))[0])
        for b in (padded, plain)
    ]
    assert torch.equal(*scales) and float(scales[0]) < 0.1
    # without the mask the padding sets the range: the test can tell the two apart
    unmasked = [padded[0], torch.ones_like(padded[0])]
    new, _ = Quantize("static", embeddings=False)(sample(), Context(padded, calibration=[unmasked]))
    assert float(scale_of(new)) > 1


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1), (3,)])
def test_the_cut_into_batches_makes_no_difference(sizes: tuple[int, ...]) -> None:
    whole = batches()[1]
    cut = [list(parts) for parts in zip(*(value.split(sizes) for value in whole), strict=True)]
    axes = {"x": -1}
    found, wanted = (
        observe(sample(), Context(b[0], calibration=b), axes, "test", sample=0)["x"]
        for b in (cut, [whole])
    )
    assert torch.equal(found.low, wanted.low) and torch.equal(found.high, wanted.high)
    assert found.count == wanted.count == 36


def seen(*batches: torch.Tensor) -> Observation:
    found = Observation.of_nothing(batches[0].shape[1])
    for rows in batches:
        found.add(rows, 8)
    return found


def test_folds_tell_each_part_from_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(4, 3, generator=generator) for _ in range(5)]
    folds = seen(*batches[:2], torch.empty(0, 3), *batches[2:]).folds(2)
    parts = [torch.cat(batches[:2]), torch.cat(batches[2:])]
    assert len(folds) == 2
    for fold, (others, part) in enumerate(folds):
        for found, rows in ((part, parts[fold]), (others, parts[1 - fold])):
            assert torch.equal(found.rows, rows) and found.count == len(rows)
            assert torch.equal(found.low, rows.amin(0))
            assert torch.equal(found.high, rows.amax(0))


def test_there_are_no_more_folds_than_batches_and_of_one_batch_none() -> None:
    rows = torch.ones(4, 3)
    assert len(seen(rows, rows, rows).folds(4)) == 3
    ((others, part),) = (whole := seen(rows, torch.empty(0, 3))).folds(4)
    assert others is part is whole


def test_a_value_without_rows_tells_nothing() -> None:
    found = Observation.of_nothing(4)
    found.add(torch.empty(0, 4), 8)
    assert found.count == 0 and found.rows.shape == (0, 4)
    found.add(torch.ones(2, 4), 8)
    assert found.count == 2 and found.low.tolist() == [1.0] * 4


def test_what_a_mask_is() -> None:
    mask = torch.tensor([[1, 1, 0]])
    for known in (mask, mask.bool(), mask.int()):
        assert padding_mask([torch.randn(1, 3), known]) is not None
    for other in (mask.float(), torch.ones_like(mask), torch.tensor([[1, 2, 0]]), mask[0]):
        assert padding_mask([other]) is None


def test_rows_are_positions() -> None:
    image = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert as_rows(image, 1).shape == (12, 2)
    assert as_rows(image, 1)[0].tolist() == [0, 12]


def test_values_that_are_not_finite_are_named() -> None:
    graph = sample()
    graph.store["e"][7] = torch.inf
    ids = torch.tensor([[7]])
    with pytest.raises(InputError, match="x is not finite"):
        observe(graph, Context([ids, ids], calibration=[[ids, ids]]), {"x": -1}, "test")
