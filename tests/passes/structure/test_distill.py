"""What a smaller network learns from the one it came from; blocks fused into those around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from graphs import fill, filled
from mixtures import Dense, Looked, Loop
from torch import Tensor, nn

import regauge as rg
from regauge.ir import Graph, InputError, astype, parse
from regauge.ir.interpret import execute
from regauge.ir.sections import Cut, sections
from regauge.passes import (
    ClusterOutputs,
    Context,
    Distill,
    DropLayers,
    Factorize,
    FuseBlocks,
    MergeExperts,
    Monarch,
    Pass,
    Prune,
    PruneExperts,
    ShareExperts,
    Sparsify,
)
from regauge.passes.fitting import Fitter
from regauge.passes.manager import apply, difference
from regauge.passes.structure.depth.fuse_blocks import Fused
from regauge.passes.structure.distill import trained

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


# Experts that get their rows in a row, as many each time.
GROUPED = """
def graph(x: f64[60, 12], e: i32[3], *, a: f64[3, 12, 16], b: f64[3, 16, 12], c: f64[3, 12, 16],
          d: f64[3, 16, 12], o: f64[3, 12]):
    h: f64[60, 16] = grouped_mm(x, a, e)
    r: f64[60, 16] = relu(h)
    m: f64[60, 12] = grouped_mm(r, b, e)
    s: f64[60, 12] = add(x, m)
    i: f64[60, 16] = grouped_mm(s, c, e)
    j: f64[60, 16] = relu(i)
    n: f64[60, 12] = grouped_mm(j, d, e)
    t: f64[60, 12] = add(s, n)
    y: f64[60, 3] = linear(t, o)
    return y
"""
ENDS = torch.tensor([20, 50, 60], dtype=torch.int32)
Made = Callable[[], tuple[Graph, Context, list[torch.Tensor]]]


def given(graph: Graph, *rest: Tensor, mean: float = 0.0) -> tuple[Graph, Context, list[Tensor]]:
    """A graph, a context with batches to learn on, and another batch."""
    random, shape = torch.Generator().manual_seed(5), [int(n) for n in graph.inputs[0].shape]
    batches = [
        [torch.randn(shape, generator=random, dtype=torch.float64) + mean, *rest] for _ in range(13)
    ]
    return graph, Context(inputs=batches[0], calibration=batches[:12]), batches[12]


def blocks() -> tuple[Graph, Context, list[torch.Tensor]]:
    graph, _ = filled(BLOCKS)
    for i in range(COUNT):
        graph.store[f"b{i}"] = graph.store[f"b{i}"] * 0.3
    return given(graph)


def classes() -> tuple[Graph, Context, list[torch.Tensor]]:
    """The same with twelve outputs, of inputs that have a mean."""
    text = BLOCKS.replace("o: f64[3, 8]", "o: f64[12, 8]")
    graph, _ = filled(text.replace("y: f64[64, 3]", "y: f64[64, 12]"))
    for i in range(COUNT):
        graph.store[f"b{i}"] = graph.store[f"b{i}"] * 0.3
    return given(graph, mean=0.5)


def grouped() -> tuple[Graph, Context, list[torch.Tensor]]:
    graph = parse(GROUPED)
    fill(graph, torch.Generator().manual_seed(0), level=True)
    return given(graph, ENDS)


def mixed(make: type[nn.Module]) -> Made:
    """Two mixtures of experts and a head."""

    def made() -> tuple[Graph, Context, list[torch.Tensor]]:
        torch.manual_seed(0)
        model = nn.Sequential(make(), make(), nn.Linear(6, 3)).eval()
        return given(astype(rg.trace(model, (torch.randn(64, 6),)), torch.float64))

    return made


def error(found: Graph, whole: Graph, batch: Sequence[Any]) -> float:
    return difference(execute(found, batch), execute(whole, batch))


# What takes something out, from what, and to which part of the error learning must come at least.
REMOVALS: dict[str, tuple[Pass, Made, float]] = {
    "width": (Prune(0.4, recover=False), blocks, 0.9),
    "depth": (DropLayers(0.25, kinds=("feedforward",), recover=False), blocks, 0.9),
    "sparsity": (Sparsify(0.6, score="magnitude", recover="none", least=1), blocks, 0.9),
    "low rank": (Factorize(remove=0.5, whitened=False), blocks, 0.9),
    "monarch": (Factorize(Monarch(), whitened=False), blocks, 0.9),
    "experts": (PruneExperts(keep=2), mixed(Dense), 0.7),
    "layers of experts": (PruneExperts(keep=2), mixed(Loop), 0.8),
    "merged experts": (MergeExperts(keep=2), mixed(Dense), 0.8),
    "merged layers": (MergeExperts(keep=2), mixed(Loop), 0.8),
    "looked-up experts": (MergeExperts(keep=2), mixed(Looked), 0.9),
    "shared inputs": (ShareExperts(0.4, side="inputs", whitened=False), grouped, 0.9),
    "shared outputs": (ShareExperts(0.4, side="outputs", whitened=False), grouped, 0.9),
    # The rows are the best already, by least squares; the bias is not.
    "outputs": (ClusterOutputs(6), classes, 0.96),
}
removals = pytest.mark.parametrize("removal", REMOVALS)


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
def test_what_a_removal_left_learns(removal: str, distill: Distill) -> None:
    step, made, part = REMOVALS[removal]
    graph, context, other = made()
    less, _ = step(graph, context)
    taught, remarks = distill(less, replace(context, original=graph))
    assert error(taught, graph, other) < part * error(less, graph, other)
    assert {name: p.type for name, p in taught.params.items()} == {
        name: p.type for name, p in less.params.items()
    }
    done = [remark for remark in remarks if remark.applied]
    assert all(r.data["error_after"] < r.data["error_before"] for r in done) and done


def learned(graph: Graph) -> set[str]:
    (section,) = sections(graph, "graph")
    return {param.name for part in trained(graph, section, 1.0) for _, param in part.sees}


def test_weights_are_learned_however_they_are_read() -> None:
    """By a linear layer, an einsum, a look-up; with what is added to what they give."""
    for make, names in (
        (Dense, {"up", "bias", "down", "router_weight", "router_bias"}),
        (Looked, {"up", "bias", "down", "router_weight", "router_bias"}),
    ):
        graph = rg.trace(make().eval(), (torch.randn(64, 6),))
        assert learned(graph) == names


def test_masks_and_tables_are_not_learned() -> None:
    graph, _ = filled(
        """
def graph(x: f64[2, 5, 8], *, w: f64[8, 8], b: f64[8], m: f64[5, 5], p: f64[5, 8], n: f64[8]):
    e: f64[2, 5, 8] = add(x, p)
    q: f64[2, 5, 8] = linear(e, w)
    r: f64[2, 5, 8] = add(q, b)
    t: f64[2, 8, 5] = transpose(r, dim0=1, dim1=2)
    s: f64[2, 5, 5] = matmul(r, t)
    u: f64[2, 5, 5] = add(s, m)
    a: f64[2, 5, 5] = softmax(u, dim=-1)
    v: f64[2, 5, 8] = matmul(a, r)
    y: f64[2, 5, 8] = rms_norm(v, n, normalized_shape=(8,))
    return y
"""
    )
    assert learned(graph) == {"w", "b", "n"}


def test_in_a_pipeline_the_graph_before_the_first_removal_teaches() -> None:
    graph, context, other = blocks()
    steps = [REMOVALS["width"][0], REMOVALS["depth"][0]]
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


def same_weights(found: Graph, graph: Graph) -> set[str]:
    """The weights that are the same to the bit."""
    return {name for name in found.params if torch.equal(found.store[name], graph.store[name])}


@pytest.mark.parametrize("cut", ["block", "graph"])
def test_what_is_protected_learns_nothing(cut: Cut) -> None:
    graph, context, other = blocks()
    less, _ = Prune(0.4, recover=False)(graph, context)
    step = Distill(FITTER, cut=cut, protect=("m1", "a2"))  # by the value, and by the weight
    taught, remarks = step(less, replace(context, original=graph))
    assert same_weights(taught, less) == {"b1", "a2"}
    assert [(r.site, r.text) for r in remarks if not r.applied] == [
        ("m1", "m1 is protected"),
        ("h2", "a2 is protected"),
    ]
    assert error(taught, graph, other) < 0.9 * error(less, graph, other)


def test_the_layers_asked_for_learn_alone() -> None:
    graph, context, other = blocks()
    less, _ = Prune(0.4, recover=False)(graph, context)
    step = Distill(FITTER, cut="graph", sites=("b3", "y"))
    taught, _ = step(less, replace(context, original=graph))
    assert same_weights(taught, less) == {*less.params} - {"b3", "o"}
    assert error(taught, graph, other) < error(less, graph, other)
    _, remarks = replace(step, sites=("r1",)).attempt(less, replace(context, original=graph))
    assert (
        remarks[-1].text
        == "r1 (relu) is no site: a site of Distill is an op whose weights can learn"
    )


def test_where_all_is_protected_nothing_learns() -> None:
    graph, context, _ = blocks()
    less, _ = Prune(0.4, recover=False)(graph, context)
    step = Distill(FITTER, protect=tuple(less.params))
    same, remarks = step.attempt(less, replace(context, original=graph))
    assert same_weights(same, less) == {*less.params}
    assert remarks[-1].text == "no weight is left that may learn"
    assert not any(remark.applied for remark in remarks)


@pytest.mark.parametrize("recover", [False, True])
def test_blocks_around_one_that_goes_learn_but_what_is_protected(recover: bool) -> None:
    graph, context, _ = blocks()
    protect = ("a0", "b0", "a1", "m1", "b2")  # of the third block one of two weights
    options = FuseBlocks(0.25, neighbours=2, rank=4, fitter=FITTER, protect=protect)
    fused, remarks = replace(options, recover=recover)(graph, context)
    assert [remark.text for remark in remarks if not remark.applied] == [
        "a1 is protected",
        "b2 is protected",
    ]
    assert same_weights(fused, graph) == {"a0", "b0", "a1", "b1", "b2", "o"}
    assert sum(node.op == "relu" for node in fused.nodes) == COUNT - 1


def test_where_blocks_are_protected_fewer_can_go() -> None:
    graph, context, _ = blocks()
    # The first reads the graph's input, and stays in any case.
    options = FuseBlocks(0.5, fitter=Fitter(steps=0), protect=("a1", "a2"))
    with pytest.raises(InputError, match=r"(?s)takes 2 of 4 blocks, and 1 .*remove=0\.25, at most"):
        options(graph, context)
    every = replace(options, protect=("a1", "a2", "a3"))
    same, remarks = every.attempt(graph, context)
    assert [remark.text for remark in remarks] == [f"a{i} is protected" for i in (1, 2, 3)]
    assert str(same) == str(graph)


def test_where_all_around_is_protected_nothing_makes_up_for_a_block() -> None:
    graph, context, _ = blocks()
    protect = ("a0", "b0", "a1", "b1", "a2", "b2")
    fused, remarks = FuseBlocks(0.25, fitter=FITTER, protect=protect)(graph, context)
    dropped, _ = DropLayers(0.25, kinds=("block",), recover=False, protect=protect)(graph, context)
    assert "no weight of the 3 around it may change" in remarks[2].text
    assert str(fused) == str(dropped) and same_weights(fused, graph) == {*fused.params}


def test_a_layer_that_is_protected_does_not_make_up_for_what_went() -> None:
    graph, context, _ = blocks()
    step = DropLayers(0.25, kinds=("block",), protect=("b0", "b1", "b2"))
    dropped, remarks = step(graph, context)
    assert any("nothing makes up for it: b2 is protected" in remark.text for remark in remarks)
    assert same_weights(dropped, graph) == {*dropped.params}


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
