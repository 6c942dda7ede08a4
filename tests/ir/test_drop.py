"""Coordinates dropped from a class: a smaller graph that computes what the masked one does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from graphs import GROUPED, STATE, filled

from regauge.ir import Graph, GraphError
from regauge.ir.gauge import Region, drop, mask, transport, units
from regauge.ir.interpret import execute
from regauge.ir.laws import Kind

STREAM = """
def graph(x: f64[2, 3, 4], *, a: f64[6, 4], g: f64[6], w: f64[6, 6], c: f64[6], o: f64[2, 6]):
    h: f64[2, 3, 6] = linear(x, a)
    n: f64[2, 3, 6] = rms_norm(h, g, normalized_shape=(6,), eps=0.1)
    f: f64[2, 3, 6] = linear(n, w, c)
    r: f64[2, 3, 6] = add(h, f)
    s: f64[2, 3, 6] = rms_norm(r, normalized_shape=(6,), eps=0.1)
    y: f64[2, 3, 2] = linear(s, o)
    return y
"""
DEPTHWISE = """
def graph(x: f64[2, 3, 7], *, a: f64[6, 3, 1], d: f64[6, 1, 3], b: f64[6], o: f64[2, 6, 1]):
    h: f64[2, 6, 7] = conv1d(x, a)
    e: f64[2, 6, 7] = conv1d(h, d, b, padding=(1,), groups=6)
    y: f64[2, 2, 7] = conv1d(e, o)
    return y
"""
# All that may be done with a hidden layer of 6 channels that is not counted.
HIDDEN = """
def graph(x: f64[2, 3, 4], *, a: f64[6, 4], b: f64[6], o: f64[2, 6]):
    h: f64[2, 3, 6] = linear(x, a, b)
    z: f64[2, 3, 6] = {op}
    y: f64[2, 3, 2] = linear(z, o)
    return y
"""


def region(graph: Graph, name: str, axes: tuple[int, ...] = (-1,)) -> Region:
    found = transport(graph, graph[name], Kind.PERMUTATION, axes=axes)
    assert isinstance(found, Region), str(found)
    return found


def cut(text: str, name: str, axes: tuple[int, ...], kept: torch.Tensor) -> Graph:
    """The narrowed graph, once it is seen to compute what the masked one does."""
    masked, inputs = filled(text)
    whole = execute(masked, inputs)
    narrow, _ = filled(text)
    mask(masked, region(masked, name, axes), kept)
    drop(narrow, region(narrow, name, axes), kept)
    narrow.verify()
    wanted = execute(masked, inputs)
    torch.testing.assert_close(execute(narrow, inputs), wanted, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(wanted[0], whole[0], rtol=1e-3)  # what is dropped did count
    return narrow


def test_a_residual_stream_loses_a_coordinate_with_its_share_of_the_norm() -> None:
    kept = torch.tensor([True, True, False, True, True, True])
    narrow = cut(STREAM, "h", (-1,), kept)
    assert narrow["r"].shape == (2, 3, 5)
    assert narrow["n"].attrs["normalized_shape"] == (5,)
    assert narrow["n"].attrs["eps"] == pytest.approx(0.1 * 6 / 5)
    assert narrow["s"].operand(1) is not None  # it had no weight to take up the factor


# Each channel's norm over all positions, divided by the mean of these norms over the channels.
RESPONSE = """
def graph(x: f64[2, 3, 5, 4], *, a: f64[6, 4], b: f64[6], g: f64[6], o: f64[2, 6]):
    h: f64[2, 3, 5, 6] = linear(x, a, b)
    e: f64[2, 3, 5, 6] = gelu(h)
    n: f64[2, 1, 1, 6] = linalg_vector_norm(e, dim=(1, 2), keepdim=True)
    m: f64[2, 1, 1, 1] = mean(n, dim=(-1,), keepdim=True)
    p: f64[2, 1, 1, 1] = add(m, 0.1)
    q: f64[2, 1, 1, 6] = div(n, p)
    r: f64[2, 3, 5, 6] = mul(e, q)
    t: f64[2, 3, 5, 6] = add(r, g)
    y: f64[2, 3, 5, 2] = linear(t, o)
    return y
"""


def test_a_mean_over_channels_keeps_counting_those_that_are_gone() -> None:
    kept = torch.tensor([True, False, True, True, True, False])
    narrow = cut(RESPONSE, "h", (-1,), kept)
    (scaled,) = narrow["m"].users
    assert scaled.op == "mul" and scaled.args[1] == pytest.approx(4 / 6)
    again = units(narrow, region(narrow, "h"))[0]
    drop(narrow, region(narrow, "h"), again > 0)  # the count is still that of the first time
    assert next(iter(narrow["m"].users)).args[1] == pytest.approx(3 / 4)


@pytest.mark.parametrize("ord", [1, 2, 3])
def test_a_norm_over_channels_counts_no_zeros(ord: int) -> None:
    text = """
def graph(x: f64[2, 3, 4], *, a: f64[6, 4], o: f64[2, 6]):
    h: f64[2, 3, 6] = linear(x, a)
    n: f64[2, 3, 1] = linalg_vector_norm(h, dim=(-1,), keepdim=True, ord=ORDER)
    r: f64[2, 3, 6] = div(h, n)
    y: f64[2, 3, 2] = linear(r, o)
    return y
""".replace("ORDER", str(ord))
    cut(text, "h", (-1,), torch.tensor([True, False, True, True, True, False]))


# Two experts of a stack: each reads its matrix, and some of the rows.
EXPERTS = """
def graph(x: f64[3, 4], y: f64[5, 4], *, w: f64[2, 6, 4], v: f64[2, 3, 6]):
    w0: f64[6, 4] = select(w, dim=0, index=0)
    w1: f64[6, 4] = select(w, dim=0, index=1)
    h0: f64[3, 6] = linear(x, w0)
    h1: f64[5, 6] = linear(y, w1)
    h: f64[8, 6] = cat((h0, h1), dim=0)
    e: f64[8, 6] = silu(h)
    s: (f64[3, 6], f64[5, 6]) = aten.split_with_sizes.default(e, split_sizes=(3, 5))
    e0: f64[3, 6] = getitem(s, 0)
    e1: f64[5, 6] = getitem(s, 1)
    v0: f64[3, 6] = select(v, dim=0, index=0)
    v1: f64[3, 6] = select(v, dim=0, index=1)
    a: f64[3, 3] = linear(e0, v0)
    b: f64[5, 3] = linear(e1, v1)
    z: f64[8, 3] = cat((a, b), dim=0)
    return z
"""


def test_the_experts_of_a_stack_lose_the_same_channels() -> None:
    narrow = cut(EXPERTS, "h0", (-1,), torch.tensor([True, False, True, True, True, False]))
    assert narrow["w"].shape == (2, 4, 4) and narrow["v"].shape == (2, 3, 4)
    assert list(narrow.params) == ["w", "v"]  # one stack, not a copy for each expert
    assert str(narrow["s"].type) == str((narrow["e0"].type, narrow["e1"].type))


def test_one_expert_of_a_stack_cannot_lose_channels_alone() -> None:
    graph, _ = filled("""
    def graph(x: f64[3, 4], *, w: f64[2, 6, 4], v: f64[3, 6]):
        w0: f64[6, 4] = select(w, dim=0, index=0)
        w1: f64[6, 4] = select(w, dim=0, index=1)
        h0: f64[3, 6] = linear(x, w0)
        h1: f64[3, 6] = linear(x, w1)
        e: f64[3, 6] = silu(h0)
        y: f64[3, 3] = linear(e, v)
        return y, h1
    """)
    with pytest.raises(GraphError, match=r"w0 \(select\): what is left here would be no block"):
        drop(graph, region(graph, "h0"), torch.arange(6) > 0)


def test_a_state_loses_heads_and_what_each_holds() -> None:
    narrow = cut(STATE, "vs", (-2,), torch.tensor([True, False, True, True]))
    assert narrow["s"].shape == (2, 3, 2, 3) and narrow["c"].shape == (12, 1, 1)
    assert narrow["kr"].attrs["output_size"] == 3
    narrow = cut(STATE, "vs", (-2, -1), torch.tensor([True, False, True]))
    assert narrow["s"].shape == (2, 4, 2, 2) and narrow["m"].attrs["normalized_shape"] == (2,)
    narrow = cut(STATE, "kh", (-3, -2), torch.arange(8) % 2 == 0)
    assert narrow["s"].shape == (2, 4, 1, 3)


def test_a_depthwise_convolution_loses_groups() -> None:
    narrow = cut(DEPTHWISE, "h", (-2,), torch.tensor([True, False, True, True, False, True]))
    assert narrow["e"].attrs["groups"] == 4
    assert narrow["d"].shape == (4, 1, 3)


def test_the_queries_that_share_a_head_go_with_it() -> None:
    narrow = cut(GROUPED, "kh", (-3,), torch.tensor([False, True]))
    assert [narrow[name].shape for name in ("qh", "kh", "vh")] == [
        (2, 2, 5, 3),
        *[(2, 1, 5, 3)] * 2,
    ]
    assert narrow["qs"].attrs["shape"] == (2, 5, 2, 3)
    assert narrow["wo"].shape == (8, 6)


def test_narrower_heads_keep_the_scale_of_the_logits() -> None:
    kept = torch.tensor([True, False, True, True, False, True])
    narrow = cut(GROUPED, "kh", (-3, -1), kept)
    assert narrow["a"].attrs["scale"] == pytest.approx(3**-0.5)
    assert narrow["qh"].shape == (2, 4, 5, 2) and narrow["vh"].shape == (2, 2, 5, 3)


def test_units_are_heads_or_places_in_all_heads() -> None:
    graph, _ = filled(GROUPED)
    values = units(graph, region(graph, "vh", (-3, -1)))
    assert [unit.tolist() for unit in values] == [[0, 1, 2, 0, 1, 2]]  # heads go with their queries
    heads = units(graph, region(graph, "kh", (-3,)))
    assert [unit.tolist() for unit in heads] == [[0, 1]]
    stream, _ = filled(STREAM)
    assert units(stream, region(stream, "h"))[0].tolist() == list(range(6))


@pytest.mark.parametrize(
    "op",
    ["relu(h)", "sigmoid(h)", "mul(h, h)", "neg(h)", "roll(h, shifts=(1,), dims=(1,))"],
)
def test_hidden_layers_lose_channels(op: str) -> None:
    cut(HIDDEN.format(op=op), "h", (-1,), torch.tensor([True, False, True, True, True, False]))


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ("layer_norm(h, normalized_shape=(6,))", "mean is over the channels"),
        ("softmax(h, dim=-1)", "has a part in the sum"),
        ("rms_norm(u, normalized_shape=(6,))", "not zero there"),
    ],
)
def test_what_counts_the_channels_refuses(op: str, reason: str) -> None:
    body = HIDDEN.format(op=op)
    if "(u," in op:  # sigmoid(0) is one half
        body = body.replace("    z:", "    u: f64[2, 3, 6] = sigmoid(h)\n    z:")
    graph, _ = filled(body)
    found = region(graph, "h")
    with pytest.raises(GraphError, match=reason):
        drop(graph, found, torch.arange(6) > 0)
    assert units(graph, found) == []


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ("mean(u, dim=(-1,), keepdim=True)", "what is dropped is not zero there"),
        ("amax(h, dim=(-1,), keepdim=True)", "amax runs over the channels"),
        ("linalg_vector_norm(h, dim=(-1,), keepdim=True, ord=0)", "its order counts zeros"),
    ],
)
def test_reductions_that_count_what_is_dropped_refuse(op: str, reason: str) -> None:
    more = f"    u: f64[2, 3, 6] = sigmoid(h)\n    m: f64[2, 3, 1] = {op}\n    z:"
    graph, _ = filled(HIDDEN.format(op="mul(h, m)").replace("    z:", more))
    with pytest.raises(GraphError, match=reason):
        drop(graph, region(graph, "h"), torch.arange(6) > 0)


INTERLEAVED = """
def graph(x: f64[5, 4], *, w: f64[8, 4], v: f64[8, 4], c: f64[5, 4], s: f64[5, 4], o: f64[3, 5]):
    q: f64[5, 8] = linear(x, w)
    a: f64[5, 4] = slice(q, dim=1, start=0, end=8, step=2)
    b: f64[5, 4] = slice(q, dim=1, start=1, end=8, step=2)
    ac: f64[5, 4] = mul(a, c)
    bs: f64[5, 4] = mul(b, s)
    f: f64[5, 4] = sub(ac, bs)
    bc: f64[5, 4] = mul(b, c)
    t: f64[5, 4] = mul(a, s)
    g: f64[5, 4] = add(bc, t)
    qr: f64[5, 8] = cat((f, g), dim=1)
    k: f64[5, 8] = linear(x, v)
    d: f64[5, 4] = slice(k, dim=1, start=0, end=8, step=2)
    e: f64[5, 4] = slice(k, dim=1, start=1, end=8, step=2)
    kr: f64[5, 8] = cat((d, e), dim=1)
    kt: f64[8, 5] = transpose(kr, dim0=0, dim1=1)
    m: f64[5, 5] = matmul(qr, kt)
    y: f64[5, 3] = linear(m, o)
    return y
"""  # rotary embeddings of neighbours; the pairs of the keys stand still


@pytest.mark.parametrize("gone", [(0,), (3,), (1, 2), (0, 1), (0, 2)], ids=str)
def test_every_other_channel_is_still_every_other(gone: tuple[int, ...]) -> None:
    graph, _ = filled(INTERLEAVED)
    found = region(graph, "q")
    (unit, *_) = units(graph, found)
    assert int(unit.max()) == 3
    kept = ~torch.isin(unit, torch.tensor(gone))
    narrow = cut(INTERLEAVED, "q", (-1,), kept)
    assert narrow["b"].attrs["start"] == 1 and narrow["b"].shape == (5, 4 - len(gone))


def test_a_bound_that_is_a_value_keeps_no_zero() -> None:
    text = HIDDEN.format(op="clamp(h, min=t)").replace("o: f64[2, 6]", "o: f64[2, 6], t: f64[]")
    cut(text, "h", (-1,), torch.tensor([True, False, True, True, True, False]))


def test_what_is_left_must_be_whole_rows() -> None:
    graph, _ = filled(GROUPED)
    found = region(graph, "vh", (-3, -1))
    with pytest.raises(GraphError, match="whole rows"):
        drop(graph, found, torch.arange(6) > 0)


def test_heads_cannot_be_left_out_of_queries_and_keys_alone() -> None:
    graph, _ = filled(GROUPED)
    with pytest.raises(GraphError, match="a part of its operands"):
        drop(graph, region(graph, "kh", (-3, -1)), torch.arange(6) < 3)


def _no_permutation(graph: Graph) -> tuple[Region, torch.Tensor]:
    found = transport(graph, graph["h"], Kind.ORTHOGONAL)
    assert isinstance(found, Region)
    return found, torch.arange(6) > 0


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda graph: (region(graph, "h"), torch.zeros(6, dtype=torch.bool)), "not all of them"),
        (lambda graph: (region(graph, "h"), torch.ones(5, dtype=torch.bool)), "6 booleans"),
        (_no_permutation, "of kind orthogonal"),
    ],
    ids=["nothing", "size", "kind"],
)
def test_wrong_requests_are_refused(
    wrong: Callable[[Graph], tuple[Region, torch.Tensor]], reason: str
) -> None:
    graph, _ = filled(
        """
        def graph(x: f64[2, 3, 4], *, a: f64[6, 4], o: f64[2, 6]):
            h: f64[2, 3, 6] = linear(x, a)
            y: f64[2, 3, 2] = linear(h, o)
            return y
        """
    )
    found, kept = wrong(graph)
    with pytest.raises(GraphError, match=reason):
        drop(graph, found, kept)


def test_groups_that_are_normed_go_as_wholes() -> None:
    text = """
    def graph(x: f64[2, 3, 7], *, a: f64[6, 3, 1], g: f64[6], b: f64[6], o: f64[2, 6, 1]):
        h: f64[2, 6, 7] = conv1d(x, a)
        n: f64[2, 6, 7] = group_norm(h, g, b, num_groups=3)
        y: f64[2, 2, 7] = conv1d(n, o)
        return y
    """
    graph, _ = filled(text)
    (unit,) = units(graph, region(graph, "h", (-2,)))
    assert unit.tolist() == [0, 0, 1, 1, 2, 2]
    narrow = cut(text, "h", (-2,), unit != 1)
    assert narrow["n"].attrs["num_groups"] == 2 and narrow["n"].shape == (2, 4, 7)
