"""The gauge analysis on small graphs: where actions go, what ties and stops them, exactness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from graphs import GROUPED, filled
from oracle import doubled

from regauge.ir import Graph, GraphError, Node, astype, parse
from regauge.ir.gauge import (
    Blocked,
    Region,
    apply,
    attention_pairs,
    classes,
    folded,
    inputs_of_contractions,
    random_element,
    separate,
    sites,
    ties_broken,
    transport,
)
from regauge.ir.interpret import execute, flatten
from regauge.ir.laws import DIAGONAL, Kind

POST_NORM = """
def graph(x: f64[2, 3, 8], *, g: f64[8], b: f64[8], w: f64[8, 8], c: f64[8]):
    n: f64[2, 3, 8] = layer_norm(x, g, b, normalized_shape=(8,))
    f: f64[2, 3, 8] = linear(n, w, c)
    r: f64[2, 3, 8] = add(n, f)
    y: f64[2, 3, 8] = layer_norm(r, normalized_shape=(8,))
    return y
"""
GATED = """
def graph(x: f64[2, 3, 8], *, gate: f64[6, 8], up: f64[6, 8], down: f64[8, 6]):
    a: f64[2, 3, 6] = linear(x, gate)
    s: f64[2, 3, 6] = silu(a)
    u: f64[2, 3, 6] = linear(x, up)
    h: f64[2, 3, 6] = mul(s, u)
    y: f64[2, 3, 8] = linear(h, down)
    return y
"""
ROTARY = """
def graph(x: f64[2, 5, 4], cos: f64[5, 4], sin: f64[5, 4], *, wq: f64[4, 4], wk: f64[4, 4]):
    q: f64[2, 5, 4] = linear(x, wq)
    qa: f64[2, 5, 2] = slice(q, dim=2, start=0, end=2)
    qb: f64[2, 5, 2] = slice(q, dim=2, start=2, end=4)
    qn: f64[2, 5, 2] = neg(qb)
    qr: f64[2, 5, 4] = cat((qn, qa), dim=-1)
    qc: f64[2, 5, 4] = mul(q, cos)
    qd: f64[2, 5, 4] = mul(qr, sin)
    qe: f64[2, 5, 4] = add(qc, qd)
    k: f64[2, 5, 4] = linear(x, wk)
    kt: f64[2, 4, 5] = transpose(k, dim0=1, dim1=2)
    y: f64[2, 5, 5] = matmul(qe, kt)
    return y
"""


def region(
    graph: Graph, name: str, kind: Kind, *, restore: bool | Literal["anywhere"] = False
) -> Region:
    found = transport(graph, graph[name], kind, restore=restore)
    assert isinstance(found, Region), str(found)
    return found


def same_after(
    graph: Graph, inputs: list[torch.Tensor], found: Region, element: torch.Tensor
) -> bool:
    wanted = execute(graph, inputs)
    apply(graph, found, element)
    graph.verify()
    return torch.allclose(execute(graph, inputs)[0], wanted[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", [Kind.SCALE, Kind.SHIFT])
def test_a_post_norm_shortcut_gets_the_original_back(kind: Kind) -> None:
    graph, inputs = filled(POST_NORM)
    blocked = transport(graph, graph["n"], kind)
    assert isinstance(blocked, Blocked) and blocked.node.name == "y"
    found = region(graph, "n", kind, restore=True)
    assert [restore.user.name for restore in found.restores] == ["r"]
    element = torch.linspace(0.5, 2.0, 8, dtype=torch.float64)
    assert same_after(graph, inputs, found, element)
    # A shift is made up for by the bias of what is added.
    assert graph["r"].args[0].name == ("n_original" if kind is Kind.SCALE else "n")


@pytest.mark.parametrize(
    ("line", "other"),
    [
        pytest.param("f: f64[2, 3, 8] = linear(n, w, c)", "mul(f, c)", id="bias read twice"),
        pytest.param("f: f64[2, 3, 8] = linear(n, w, c)", "relu(f)", id="layer read twice"),
        pytest.param("f: f64[2, 3, 8] = mul(n, c)", "", id="no layer"),
    ],
)
def test_a_shift_is_given_back_by_an_op_where_no_bias_is_free(line: str, other: str) -> None:
    text = POST_NORM.replace("f: f64[2, 3, 8] = linear(n, w, c)", line)
    if other:
        text = text.replace("return y", f"z: f64[2, 3, 8] = {other}\n    return y, z")
    graph, inputs = filled(text)
    found = region(graph, "n", Kind.SHIFT, restore=True)
    wanted = execute(graph, inputs)
    apply(graph, found, torch.linspace(0.5, 2.0, 8, dtype=torch.float64))
    graph.verify()
    torch.testing.assert_close(execute(graph, inputs), wanted, rtol=1e-10, atol=1e-10)
    assert graph["r"].args[0].name == "n_original"


@pytest.mark.parametrize("restore", [True, "anywhere"])
@pytest.mark.parametrize("kind", [Kind.SCALE, Kind.SHIFT, Kind.ORTHOGONAL, Kind.PERMUTATION])
def test_a_value_that_is_returned_too_is_returned_as_it_was(
    kind: Kind, restore: Literal[True, "anywhere"]
) -> None:
    graph, inputs = filled(
        """
        def graph(x: f64[3, 8], *, a: f64[8, 8], b: f64[5, 8]):
            h: f64[3, 8] = linear(x, a)
            y: f64[3, 5] = linear(h, b)
            return h, y
        """
    )
    found = region(graph, "h", kind, restore=restore)
    wanted = execute(graph, inputs)
    apply(graph, found, random_element(found, torch.Generator().manual_seed(0)))
    graph.verify()
    torch.testing.assert_close(execute(graph, inputs), wanted, rtol=1e-10, atol=1e-10)
    assert [n.name for n in graph.outputs if isinstance(n, Node)] == ["h_original", "y"]


@pytest.mark.parametrize("kind", [Kind.SCALE, Kind.SIGN, Kind.ORTHOGONAL, Kind.PERMUTATION])
def test_weights_that_read_and_write_one_stream_take_both_actions(kind: Kind) -> None:
    graph, inputs = filled(
        """
        def graph(x: f64[3, 8], *, a: f64[8, 8], w: f64[8, 8], c: f64[8], b: f64[5, 8]):
            h: f64[3, 8] = linear(x, a)
            f: f64[3, 8] = linear(h, w, c)
            r: f64[3, 8] = add(h, f)
            y: f64[3, 5] = linear(r, b)
            return y
        """
    )
    found = region(graph, "h", kind)
    if kind in DIAGONAL:
        assert found.size == len(found.groups.unique())  # every channel for itself
    else:
        assert len(found.groups.unique()) == 1  # and all with all
    element = random_element(found, torch.Generator().manual_seed(0))
    assert same_after(graph, inputs, found, element)


def test_all_that_attention_reads_is_acted_on_at_once() -> None:
    graph, inputs = filled(
        """
        def graph(x: f64[2, 5, 8], *, a: f64[8, 8], b: f64[5, 8]):
            h: f64[2, 5, 8] = linear(x, a)
            n: f64[2, 1, 5, 8] = unsqueeze(h, dim=1)
            s: f64[2, 1, 5, 8] = scaled_dot_product_attention(n, n, n)
            y: f64[2, 1, 5, 5] = linear(s, b)
            return y
        """
    )
    for kind in (Kind.SCALE, Kind.LINEAR):  # queries and keys would have to take opposite ones
        blocked = transport(graph, graph["h"], kind)
        assert isinstance(blocked, Blocked) and blocked.node.name == "s"
    for kind in (Kind.SIGN, Kind.ORTHOGONAL, Kind.PERMUTATION):  # which are their own opposites
        copy = graph.copy()
        found = region(copy, "h", kind)
        element = random_element(found, torch.Generator().manual_seed(0))
        assert same_after(copy, inputs, found, element)


def test_a_value_that_is_read_twice_by_the_op_that_asks_for_it_is_seen_twice() -> None:
    graph, inputs = filled(
        """
        def graph(x: f64[2, 5, 8], *, a: f64[8, 8], q: f64[2, 1, 3, 8], b: f64[5, 8]):
            h: f64[2, 5, 8] = linear(x, a)
            n: f64[2, 1, 5, 8] = unsqueeze(h, dim=1)
            s: f64[2, 1, 3, 8] = scaled_dot_product_attention(q, n, n)
            y: f64[2, 1, 3, 5] = linear(s, b)
            return y
        """
    )
    found = region(graph, "s", Kind.PERMUTATION)  # the values are the keys too
    assert graph.params["q"] in found.parameters
    assert same_after(graph, inputs, found, torch.arange(8).roll(3))


@pytest.mark.parametrize("kind", [Kind.SCALE, Kind.SHIFT, Kind.ORTHOGONAL, Kind.PERMUTATION])
def test_the_values_of_a_fused_map_leave_queries_and_keys_alone(kind: Kind) -> None:
    graph, inputs = filled(
        """
        def graph(x: f64[2, 5, 8], *, w: f64[24, 8], c: f64[24], o: f64[8, 8], b: f64[8]):
            a: f64[2, 5, 24] = linear(x, w, c)
            r: f64[2, 5, 3, 2, 4] = reshape(a, shape=(2, 5, 3, 2, 4))
            p: f64[3, 2, 2, 5, 4] = permute(r, dims=(2, 0, 3, 1, 4))
            q: f64[2, 2, 5, 4] = select(p, dim=0, index=0)
            k: f64[2, 2, 5, 4] = select(p, dim=0, index=1)
            v: f64[2, 2, 5, 4] = select(p, dim=0, index=2)
            s: f64[2, 2, 5, 4] = scaled_dot_product_attention(q, k, v)
            t: f64[2, 5, 2, 4] = permute(s, dims=(0, 2, 1, 3))
            m: f64[2, 5, 8] = reshape(t, shape=(2, 5, 8))
            y: f64[2, 5, 8] = linear(m, o, b)
            return y
        """
    )
    found = region(graph, "m", kind)
    assert graph["q"] not in found.actions and graph["k"] not in found.actions
    element = random_element(found, torch.Generator().manual_seed(0))
    assert same_after(graph, inputs, found, element)


@pytest.mark.parametrize("kind", [Kind.SCALE, Kind.PERMUTATION, Kind.SIGN])
def test_what_a_slice_leaves_out_stops_nothing(kind: Kind) -> None:
    """A causal convolution: padded on both sides, and the end cut off."""
    graph, inputs = filled(
        """
        def graph(x: f64[2, 8, 5], *, k: f64[8, 1, 3], c: f64[8], w: f64[4, 8]):
            a: f64[2, 8, 7] = conv1d(x, k, c, padding=(2,), groups=8)
            s: f64[2, 8, 5] = slice(a, dim=2, start=0, end=5)
            p: f64[2, 5, 8] = permute(s, dims=(0, 2, 1))
            y: f64[2, 5, 4] = linear(p, w)
            return y
        """
    )
    found = transport(graph, graph["p"], kind, free=kind is Kind.PERMUTATION)
    assert isinstance(found, Region), str(found)
    if kind is not Kind.PERMUTATION:  # whose input would have to move too
        element = random_element(found, torch.Generator().manual_seed(0))
        assert same_after(graph, inputs, found, element)


def test_a_scale_passes_the_factor_that_is_not_gated() -> None:
    graph, inputs = filled(GATED)
    found = region(graph, "h", Kind.SCALE)
    assert [param.name for param in found.parameters] == ["up", "down"]
    assert same_after(graph, inputs, found, torch.linspace(0.5, 2.0, 6, dtype=torch.float64))


def test_grouped_queries_tie_the_channels_of_the_heads_they_share() -> None:
    graph, inputs = filled(GROUPED)
    found = region(graph, "m", Kind.SCALE)
    assert found.groups.tolist() == [0, 1, 2, 0, 1, 2, 6, 7, 8, 6, 7, 8]
    assert [param.name for param in found.parameters] == ["wv", "wo"]
    noise = torch.linspace(0.5, 2.0, 12, dtype=torch.float64)
    with pytest.raises(GraphError, match="differs between channels that the graph ties"):
        apply(graph, found, noise)
    assert same_after(graph, inputs, found, noise[found.groups])


def test_a_shift_of_the_values_passes_attention_whose_rows_sum_to_one() -> None:
    graph, inputs = filled(GROUPED)
    found = region(graph, "m", Kind.SHIFT)
    element = torch.linspace(-1.0, 2.0, 12, dtype=torch.float64)[found.groups]
    assert same_after(graph, inputs, found, element)
    assert {"v_bias", "y_bias"} <= set(graph.params)


def test_queries_and_keys_take_opposite_scales() -> None:
    graph, inputs = filled(GROUPED)
    found = region(graph, "q", Kind.SCALE)
    assert {param.name for param in found.parameters} == {"wq", "wk"}
    assert same_after(
        graph, inputs, found, torch.linspace(0.5, 2.0, 12, dtype=torch.float64)[found.groups]
    )


def test_rotary_embeddings_tie_the_two_channels_of_a_pair() -> None:
    graph, inputs = filled(ROTARY)
    found = region(graph, "q", Kind.SCALE)
    assert found.groups.tolist() == [0, 1, 0, 1]
    assert same_after(graph, inputs, found, torch.tensor([0.5, 2.0, 0.5, 2.0], dtype=torch.float64))


def test_an_element_outside_the_group_does_change_the_function() -> None:
    graph, inputs = filled(ROTARY)
    wanted = execute(graph, inputs)
    found = region(graph, "q", Kind.SCALE)
    found.ties.clear()  # as if the pairs were not tied
    apply(graph, found, torch.tensor([0.5, 2.0, 3.0, 1.0], dtype=torch.float64))
    assert not torch.allclose(execute(graph, inputs)[0], wanted[0], rtol=1e-3)


def test_a_permutation_moves_the_hidden_layer() -> None:
    graph, inputs = filled(GATED)
    found = region(graph, "a", Kind.PERMUTATION)
    assert {param.name for param in found.parameters} == {"gate", "up", "down"}
    assert same_after(graph, inputs, found, torch.tensor([3, 1, 0, 5, 2, 4]))


def test_a_permutation_stays_within_each_head() -> None:
    graph, inputs = filled(GROUPED)
    found = region(graph, "v", Kind.PERMUTATION)
    assert found.groups.tolist() == [0, 0, 0, 3, 3, 3]
    assert same_after(graph, inputs, found, torch.tensor([2, 0, 1, 4, 3, 5]))


def test_a_tie_is_named_before_it_is_broken() -> None:
    graph, inputs = filled(
        """
        def graph(x: f64[2, 8], *, g: f64[8], w: f64[8, 8]):
            n: f64[2, 8] = rms_norm(x, g, normalized_shape=(8,), eps=1e-06)
            f: f64[2, 8] = linear(n, w)
            r: f64[2, 8] = relu(f)
            y: f64[2, 8] = linear(r, w)
            return y
        """
    )
    found = region(graph, "n", Kind.SCALE)
    assert [(tie.param, tie.bytes) for tie in ties_broken(graph, found)] == [("w", 512)]
    assert same_after(graph, inputs, found, torch.linspace(0.5, 2.0, 8, dtype=torch.float64))
    assert set(graph.params) == {"g", "w", "w_1"}


def test_sites_say_what_blocks_them() -> None:
    graph, _ = filled(GATED)
    by_name = {site.value.name: site for site in sites(graph)}
    assert by_name["h"].groups == (Kind.SCALE,)
    assert str(by_name["h"].blocked[Kind.SHIFT]) == "h (mul): a shift does not pass mul"
    assert str(by_name["x"].blocked[Kind.SCALE]) == "x (input): it is an input of the graph"


def test_classes_are_found_once() -> None:
    graph, _ = filled(GATED)
    assert [site.value.name for site in classes(graph)] == ["a", "y"]
    assert classes(graph)[0].groups == (Kind.PERMUTATION,)


@pytest.mark.parametrize(
    ("body", "blocker"),
    [
        pytest.param(
            "y: f64[2, 8] = mul(h, h)\n    z: f64[2, 3] = linear(y, u)",
            "y",
            id="a value times itself",
        ),
        pytest.param(
            "y: f64[2, 8] = add(h, 1.0)\n    z: f64[2, 3] = linear(y, u)",
            "y",
            id="a number is added",
        ),
        pytest.param(
            "y: f64[2, 8] = index_select(h, i, dim=1)\n    z: f64[2, 3] = linear(y, u)",
            "y",
            id="channels re-indexed",
        ),
        pytest.param(
            "y: f64[2, 8] = softmax(h, dim=-1)\n    z: f64[2, 3] = linear(y, u)",
            "y",
            id="a softmax",
        ),
    ],
)
def test_known_traps_are_refused(body: str, blocker: str) -> None:
    text = f"""
def graph(x: f64[2, 4], i: i64[8], *, w: f64[8, 4], u: f64[3, 8]):
    h: f64[2, 8] = linear(x, w)
    {body}
    return z
"""
    graph = parse(text)
    found = transport(graph, graph["h"], Kind.SCALE)
    assert isinstance(found, Blocked) and found.node.name == blocker


@pytest.mark.parametrize(
    ("operands", "reason"),
    [("k, b", "its weights are no parameter"), ("w, c", "its bias is no parameter")],
)
def test_a_shift_goes_into_parameters_alone(operands: str, reason: str) -> None:
    graph = parse(f"""
def graph(x: f64[2, 4], *, g: f64[4], w: f64[3, 4], b: f64[3]):
    k: f64[3, 4] = neg(w)
    c: f64[3] = neg(b)
    n: f64[2, 4] = layer_norm(x, g, normalized_shape=(4,))
    y: f64[2, 3] = linear(n, {operands})
    return y
""")
    graph.prune()
    found = transport(graph, graph["n"], Kind.SHIFT)
    assert isinstance(found, Blocked) and found.node.name == "y"
    assert reason in str(found)


def _regions(graph: Graph, kind: Kind) -> list[Region]:
    """What all inputs of contractions and attention pairs take."""
    wanted = [*inputs_of_contractions(graph), *attention_pairs(graph)]
    found = [transport(graph, site.value, kind, axes=site.axes) for site in wanted]
    return [region for region in found if isinstance(region, Region)]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "opt", "vit", "resnet"])
def test_regions_folded_one_after_the_other_give_what_applying_them_gives(
    traced: Callable[..., Graph], zoo_model: Callable[..., Any], name: str
) -> None:
    zoo = zoo_model(name)
    graph = astype(traced(name), torch.float64)
    inputs = doubled(flatten(traced(name), zoo.args, zoo.kwargs))
    wanted = execute(graph, inputs)
    applied, generator = graph.copy(), torch.Generator().manual_seed(0)
    chosen: list[tuple[Region, torch.Tensor]] = []
    for kind in (Kind.SHIFT, Kind.SCALE):
        for region, other in zip(_regions(graph, kind), _regions(applied, kind), strict=True):
            separate(graph, region)
            chosen.append((region, random_element(region, generator)))
            apply(applied, other, chosen[-1][1])
    values = {node: graph.value(node) for node in graph.params.values()}
    for region, element in chosen:
        values |= folded(region, element, values.__getitem__)
    params = {node.name: value for node, value in values.items()}
    found = execute(graph, inputs, params=params)
    for mine, theirs, original in zip(found, execute(applied, inputs), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(mine, original, rtol=1e-9, atol=1e-9)
    changed = {param.name for region, _ in chosen for param in region.parameters}
    assert len(chosen) >= 3
    assert not any(torch.equal(params[name], graph.store[name]) for name in changed)


@pytest.mark.parametrize("kind", [Kind.SCALE, Kind.SHIFT, Kind.LINEAR])
def test_what_is_folded_can_be_differentiated(kind: Kind) -> None:
    graph, _ = filled(GROUPED)
    site = next(site for site in attention_pairs(graph) if site.value.name == "vh")
    found = transport(graph, site.value, kind, axes=site.axes)
    assert isinstance(found, Region)
    separate(graph, found)
    element = random_element(found, torch.Generator().manual_seed(0)).requires_grad_()
    weights = {n: graph.value(n).clone().requires_grad_() for n in graph.params.values()}

    def run(element: torch.Tensor, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = dict(zip(weights, values, strict=True))
        return tuple(folded(found, element, given.__getitem__).values())

    torch.autograd.gradcheck(run, (element, *weights.values()))
