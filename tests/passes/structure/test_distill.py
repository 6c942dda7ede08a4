"""What a smaller network learns from the one it came from; blocks fused into those around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from graphs import filled

import regauge as rg
from regauge.ir import Graph, InputError
from regauge.ir.interpret import execute
from regauge.passes import (
    Context,
    Distill,
    DropLayers,
    Factorize,
    FuseBlocks,
    Monarch,
    Pass,
    Prune,
    Sparsify,
)
from regauge.passes.fitting import Fitter
from regauge.passes.manager import apply, difference
from regauge.passes.structure.depth.fuse_blocks import Fused

# Four equal blocks; a fourth of a block's branch is what the next one adds.
BLOCK = """
    h{i}: f64[64, 24] = linear(x{i}, a{i})
    r{i}: f64[64, 24] = relu(h{i})
    m{i}: f64[64, 8] = linear(r{i}, b{i})
    x{j}: f64[64, 8] = add(x{i}, m{i})
"""
COUNT = 4
PARAMS = ", ".join(f"a{i}: f64[24, 8], b{i}: f64[8, 24]" for i in range(COUNT))
BLOCKS = (
    f"def graph(x0: f64[64, 8], *, {PARAMS}, o: f64[3, 8]):"
    + "".join(BLOCK.format(i=i, j=i + 1).rstrip() for i in range(COUNT))
    + f"\n    y: f64[64, 3] = linear(x{COUNT}, o)\n    return y\n"
)
FITTER = Fitter(steps=200)


def blocks() -> tuple[Graph, Context, list[torch.Tensor]]:
    """A graph, a context with batches to learn on, and another batch."""
    graph, _ = filled(BLOCKS)
    for i in range(COUNT):
        graph.store[f"b{i}"] = graph.store[f"b{i}"] * 0.3
    random = torch.Generator().manual_seed(5)
    batches = [[torch.randn(64, 8, generator=random, dtype=torch.float64)] for _ in range(13)]
    return graph, Context(inputs=batches[0], calibration=batches[:12]), batches[12]


def error(found: Graph, whole: Graph, batch: Sequence[Any]) -> float:
    return difference(execute(found, batch), execute(whole, batch))


REMOVALS = {
    "width": Prune(0.4, recover=False),
    "depth": DropLayers(0.25, kinds=("feedforward",), recover=False),
    "sparsity": Sparsify(0.6, score="magnitude", recover="none", least=1),
    "factors": Factorize(Monarch(), 0.5),  # of low rank a layer's fit is its optimum already
}
removals = pytest.mark.parametrize("removal", REMOVALS.values(), ids=REMOVALS)


@removals
@pytest.mark.parametrize(
    "distill",
    [
        Distill(FITTER),
        Distill(FITTER, cut="graph"),
        Distill(FITTER, cut="graph", features=True),
        Distill(FITTER, cut="layer"),
    ],
    ids=["block", "graph", "features", "layer"],
)
def test_what_a_removal_left_learns(removal: Pass, distill: Distill) -> None:
    graph, context, other = blocks()
    less, _ = removal(graph, context)
    taught, remarks = distill(less, replace(context, original=graph))
    assert error(taught, graph, other) < 0.9 * error(less, graph, other)
    assert {name: p.type for name, p in taught.params.items()} == {
        name: p.type for name, p in less.params.items()
    }
    done = [remark for remark in remarks if remark.applied]
    assert all(r.data["error_after"] < r.data["error_before"] for r in done) and done


def test_in_a_pipeline_the_graph_before_the_first_removal_teaches() -> None:
    graph, context, other = blocks()
    steps = [REMOVALS["width"], REMOVALS["depth"]]
    less, _ = apply(graph, steps, context, dtype=torch.float64)
    taught, reports = apply(graph, [*steps, Distill(FITTER)], context, dtype=torch.float64)
    assert error(taught, graph, other) < 0.9 * error(less, graph, other)
    assert reports[-1].damage < reports[-2].damage


def test_weights_that_are_released_can_teach() -> None:
    graph, context, other = blocks()
    steps = [Prune(0.3), Distill(FITTER)]
    whole = graph.copy()
    taught, _ = apply(graph, steps, context, dtype=torch.float64, release=True)
    same, _ = apply(whole, steps, context, dtype=torch.float64)
    assert error(taught, same, other) == 0


def test_what_is_zero_stays_zero() -> None:
    graph, context, _ = blocks()
    less, _ = Sparsify(0.5, score="magnitude", recover="none", least=1)(graph, context)
    taught, _ = Distill(FITTER)(less, replace(context, original=graph))
    for name in taught.params:
        zero = less.store[name] == 0
        assert torch.equal(taught.store[name] == 0, zero)
        assert name == "o" or zero.any()


def test_a_narrower_stream_learns_by_the_outputs() -> None:
    graph, context, other = blocks()
    graph.store["o"] = torch.cat([graph.store["o"][:, :6], torch.zeros(3, 2).double()], 1)
    wide = rg.ir.parse(
        BLOCKS.replace("x0: f64[64, 8]", "i: f64[64, 8], *, s: f64[8, 8]")
        .replace(", *, a0", ", a0")
        .replace("    h0", "    x0: f64[64, 8] = linear(i, s)\n    h0", 1)
    )
    for name in graph.params:
        wide.store[name] = graph.store[name]
    wide.store["s"] = torch.eye(8, dtype=torch.float64)
    less, _ = Prune(0.3, roles=("stream",), recover=False)(wide, context)
    taught, remarks = Distill(FITTER)(less, replace(context, original=wide))
    assert [remark.site for remark in remarks] == ["y"]
    assert error(taught, wide, other) < 0.9 * error(less, wide, other)


def test_a_graph_that_lost_nothing_stays_as_it_is() -> None:
    graph, context, _ = blocks()
    same, remarks = Distill(FITTER).attempt(graph, replace(context, original=graph))
    assert [remark.text for remark in remarks] == [
        "left as it is: it gives what the graph gave before"
    ]
    assert all(torch.equal(same.store[name], graph.store[name]) for name in graph.params)


@pytest.mark.parametrize("neighbours", [1, 2, 3])
def test_fusing_starts_as_leaving_out(neighbours: int) -> None:
    """With nothing learned, it is the graph without the block."""
    graph, context, _ = blocks()
    fused, remarks = FuseBlocks(
        0.25, neighbours=neighbours, recover=False, fitter=Fitter(steps=0), score="similarity"
    )(graph, context)
    dropped, same = DropLayers(0.25, kinds=("block",), recover=False)(graph, context)
    assert str(fused) == str(dropped)
    assert error(fused, dropped, context.calibration[0]) == 0
    assert remarks[0].site == same[0].site


@pytest.mark.parametrize("remove", [0.25, 0.5])
@pytest.mark.parametrize("recover", [False, True])
def test_neighbours_learn_what_a_block_did(remove: float, recover: bool) -> None:
    graph, context, other = blocks()
    options = FuseBlocks(remove, neighbours=2, rank=4, fitter=FITTER, recover=recover)
    fused, remarks = options(graph, context)
    start, _ = replace(options, fitter=Fitter(steps=0))(graph, context)
    assert error(fused, graph, other) < 0.8 * error(start, graph, other)
    assert sum(node.op == "relu" for node in fused.nodes) == COUNT - round(COUNT * remove)
    assert len([remark for remark in remarks if "error_after" in remark.data]) == COUNT * remove


def test_a_weight_of_the_block_that_goes_is_a_part() -> None:
    graph, _ = filled(BLOCKS)
    place, random = (graph["m1"], graph["b1"]), torch.Generator().manual_seed(0)
    weight, donor = graph.store["b1"], graph.store["b2"]
    part = Fused(place, weight, donor, 1, 1e-3, random)
    assert torch.equal(part.value(weight, None), weight)
    for name, start in part.tensors.items():
        part.tensors[name] = torch.zeros_like(start) if name in "ab" else torch.ones_like(start)
    torch.testing.assert_close(part.value(weight, None), weight + donor)


def test_blocks_are_not_fused_into_nothing() -> None:
    graph, context, _ = blocks()
    most = f"remove={1 - 1 / COUNT:.4g}"
    with pytest.raises(InputError, match=f"(?s)leaves none of {COUNT} blocks.*{most}, at most"):
        FuseBlocks(0.99)(graph, context)


def test_what_cannot_be_done_is_said() -> None:
    graph, context, _ = blocks()
    with pytest.raises(InputError, match="Distill learns from the graph as it was"):
        Distill()(graph, context)
    with pytest.raises(InputError, match="needs calibration data"):
        Distill()(graph, Context(inputs=(), original=graph))
    with pytest.raises(InputError, match="rate: a number above 0"):
        Distill(rate=0)
    with pytest.raises(InputError, match="features=True with cut"):
        Distill(features=True)
    with pytest.raises(InputError, match="features=True with cut"):
        Distill(Fitter(loss="divergence"), cut="graph", features=True)
    with pytest.raises(InputError, match="rank=0 is not"):
        FuseBlocks(rank=0)
    with pytest.raises(InputError, match="there is no score 'best'"):
        FuseBlocks(score="best")
    lonely, inputs = filled(
        "def graph(x: f64[4, 8], *, w: f64[8, 8]):\n    y: f64[4, 8] = linear(x, w)\n    return y\n"
    )
    _, remarks = FuseBlocks(0.5).attempt(lonely, Context(inputs=inputs, calibration=[inputs]))
    assert [remark.text for remark in remarks] == ["there are no blocks that repeat one another"]
