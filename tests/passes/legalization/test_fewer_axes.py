"""Permutations of many axes as several of few."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from regauge.ir import Graph, parse
from regauge.ir.interpret import execute
from regauge.passes import Context, FewerAxes
from regauge.passes.legalization.fewer_axes import exchanges

WINDOWS = """
def graph(x: f64[2, 8, 10, 10]):
    cut: f64[2, 8, 2, 5, 2, 5] = reshape(x, shape=(2, 8, 2, 5, 2, 5))
    moved: f64[2, 2, 2, 5, 5, 8] = permute(cut, dims=(0, 2, 4, 3, 5, 1))
    y: f64[8, 25, 8] = reshape(moved, shape=(8, 25, 8))
    return y
"""


def of(text: str, most: int) -> tuple[Graph, Graph, list[str]]:
    graph = parse(text)
    new, remarks = FewerAxes(most).attempt(graph, Context(inputs=[]))
    new.verify()
    return graph, new, [str(remark) for remark in remarks]


@pytest.mark.parametrize("most", [4, 5])
@pytest.mark.parametrize("sizes", [(2, 3, 4, 5), (2, 3, 1, 4, 2, 3)])
def test_every_order_is_one_of_exchanges(sizes: tuple[int, ...], most: int) -> None:
    x = torch.arange(torch.Size(sizes).numel()).reshape(sizes)
    for order in permutations(range(len(sizes))):
        found = x
        for shape, dims in exchanges(sizes, order, most):
            assert len(shape) == len(dims) <= most
            found = found.reshape(shape).permute(dims)
        assert torch.equal(found.flatten(), x.permute(order).flatten())


def test_axes_that_stay_side_by_side_are_one() -> None:
    assert list(exchanges((2, 3, 4, 5, 6, 7), (0, 1, 3, 2, 4, 5), 4)) == [
        ((6, 4, 5, 42), (0, 2, 1, 3))
    ]
    assert not list(exchanges((1, 3, 1, 5), (2, 1, 0, 3), 4))  # one does not move anything


def test_windows_of_an_image() -> None:
    graph, new, remarks = of(WINDOWS, 5)
    assert [node.op for node in new.nodes] == ["reshape", "permute"] * 2 + ["reshape"]
    assert max(len(node.shape) for node in new.nodes) == 5
    assert len(remarks) == 1 and "6 axes in 2 moves of 5 at most" in remarks[0]
    x = torch.randn(2, 8, 10, 10, dtype=torch.float64)
    assert torch.equal(execute(new, [x])[0], execute(graph, [x])[0])


def test_what_is_read_with_all_its_axes_keeps_them() -> None:
    graph, new, _ = of(
        WINDOWS.replace("return y", "z: f64[2, 2, 2, 5, 5, 8] = relu(moved)\n    return y, z"), 5
    )
    x = torch.randn(2, 8, 10, 10, dtype=torch.float64)
    for found, wanted in zip(execute(new, [x]), execute(graph, [x]), strict=True):
        assert torch.equal(found, wanted)


def test_few_axes_and_sizes_that_vary_stay() -> None:
    graph, new, remarks = of(WINDOWS, 6)
    assert str(new) == str(graph) and not remarks
    graph, new, remarks = of(
        """
        def graph(x: f64[b, 2, 3, 4, 5]):
            y: f64[b, 3, 2, 5, 4] = permute(x, dims=(0, 2, 1, 4, 3))
            return y
        """,
        4,
    )
    assert str(new) == str(graph) and "it has 5 axes, and sizes vary" in remarks[0]
