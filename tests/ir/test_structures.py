"""Structures whose symmetry is smaller, or spread further, than one op shows: on small graphs.

Every region that is found is applied with a random element of its group, and the function stays.
"""

from __future__ import annotations

import pytest
import torch
from graphs import STATE, filled

from regauge.ir import GraphError, parse
from regauge.ir.gauge import Blocked, Region, apply, random_element, transport
from regauge.ir.interpret import execute
from regauge.ir.laws import Kind

# A position encoding as wav2vec 2.0 has it: what a grouped convolution makes of a stream is added
# to the stream.
GROUPED = """
def graph(x: f64[2, 5, 3], *, a: f64[8, 3], k: f64[8, 2, 3], c: f64[8], b: f64[4, 8]):
    h: f64[2, 5, 8] = linear(x, a)
    t: f64[2, 8, 5] = permute(h, dims=(0, 2, 1))
    f: f64[2, 8, 5] = conv1d(t, k, c, padding=(1,), groups=4)
    g: f64[2, 8, 5] = gelu(f)
    p: f64[2, 5, 8] = permute(g, dims=(0, 2, 1))
    r: f64[2, 5, 8] = add(h, p)
    y: f64[2, 5, 4] = linear(r, b)
    return y
"""
NORMED = GROUPED.replace("k: f64[8, 2, 3]", "v: f64[8, 2, 3], l: f64[1, 1, 3]").replace(
    "    f: f64[2, 8, 5]", "    k: f64[8, 2, 3] = _weight_norm(v, l, dim=2)\n    f: f64[2, 8, 5]"
)
# A block whose scale and shift are two parts of what one map makes of a condition.
MODULATED = """
def graph(x: f64[2, 5, 3], z: f64[2, 4], *, a: f64[6, 3], m: f64[12, 4], n: f64[12], b: f64[4, 6]):
    h: f64[2, 5, 6] = linear(x, a)
    c: f64[2, 12] = linear(z, m, n)
    s: f64[2, 6] = slice(c, dim=1, start=0, end=6)
    t: f64[2, 6] = slice(c, dim=1, start=6, end=12)
    u: f64[2, 1, 6] = unsqueeze(s, dim=1)
    v: f64[2, 1, 6] = unsqueeze(t, dim=1)
    i: f64[2, 5, 6] = mul(h, u)
    j: f64[2, 5, 6] = add(i, v)
    y: f64[2, 5, 4] = linear(j, b)
    return y
"""
# One map that serves every head of a stream.
SHARED = """
def graph(x: f64[2, 5, 3], *, a: f64[8, 3], w: f64[6, 4], b: f64[3, 8]):
    h: f64[2, 5, 8] = linear(x, a)
    s: f64[2, 5, 2, 4] = reshape(h, shape=(2, 5, 2, 4))
    g: f64[2, 5, 2, 6] = linear(s, w)
    y: f64[2, 5, 3] = linear(h, b)
    return g, y
"""
# The two halves of a gate: a channel of the one meets its like of the other.
GATE = """
def graph(x: f64[2, 5, 3], *, a: f64[8, 3], b: f64[3, 4]):
    h: f64[2, 5, 8] = linear(x, a)
    s: f64[2, 5, 4] = slice(h, dim=2, start=0, end=4)
    t: f64[2, 5, 4] = slice(h, dim=2, start=4, end=8)
    u: f64[2, 5, 4] = sigmoid(t)
    m: f64[2, 5, 4] = mul(s, u)
    y: f64[2, 5, 3] = linear(m, b)
    return y
"""
# Two streams taken apart and put together again around a norm.
REGISTERS = """
def graph(x: f64[2, 5, 3], *, a: f64[6, 3], r: f64[2, 2, 6], g: f64[6], b: f64[6], w: f64[3, 6]):
    h: f64[2, 5, 6] = linear(x, a)
    s: f64[2, 1, 6] = slice(h, dim=1, start=0, end=1)
    t: f64[2, 4, 6] = slice(h, dim=1, start=1, end=5)
    c: f64[2, 7, 6] = cat((s, r, t), dim=1)
    n: f64[2, 7, 6] = layer_norm(c, g, b, normalized_shape=(6,))
    y: f64[2, 7, 3] = linear(n, w)
    return y
"""
# A dense connection: a layer reads what came before it beside what its neighbour made of that.
DENSE = """
def graph(x: f64[2, 3, 4, 4], *, a: f64[4, 3, 1, 1], k: f64[2, 4, 1, 1], b: f64[5, 6, 1, 1]):
    h: f64[2, 4, 4, 4] = conv2d(x, a)
    f: f64[2, 2, 4, 4] = conv2d(h, k)
    c: f64[2, 6, 4, 4] = cat((h, f), dim=1)
    y: f64[2, 5, 4, 4] = conv2d(c, b)
    return y
"""
# Experts, each for some rows: how many is known from data alone.
EXPERTS = """
def graph(x: f64[6, 3], *, a: f64[4, 3], u: f64[5, 4], v: f64[5, 4]):
    h: f64[6, 4] = linear(x, a)
    p: (f64[2, 4], f64[4, 4]) = aten.split_with_sizes.default(h, split_sizes=(2, 4), dim=0)
    s: f64[2, 4] = getitem(p, 0)
    t: f64[4, 4] = getitem(p, 1)
    d: f64[2, 5] = linear(s, u)
    e: f64[4, 5] = linear(t, v)
    y: f64[6, 5] = cat((d, e), dim=0)
    return y
"""


def check(text: str, name: str, axes: tuple[int, ...], members: list[list[int]]) -> None:
    """A permutation at a value has these cells, keeps the function, and may not leave its cells."""
    graph, inputs = filled(text)
    wanted = execute(graph, inputs)
    found = transport(graph, graph[name], Kind.PERMUTATION, axes=axes)
    assert isinstance(found, Region), str(found)
    assert [cell.tolist() for cell in found.members] == members
    if len(members) > 1:
        outside = torch.arange(found.size)
        outside[[members[0][0], members[1][0]]] = outside[[members[1][0], members[0][0]]]
        with pytest.raises(GraphError, match="cells"):
            apply(graph, found, outside)
    apply(graph, found, random_element(found, torch.Generator().manual_seed(0)))
    graph.verify()
    torch.testing.assert_close(execute(graph, inputs), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("text", "name", "axes", "members"),
    [
        pytest.param(GROUPED, "h", (-1,), [[0, 1], [2, 3], [4, 5], [6, 7]], id="grouped"),
        pytest.param(NORMED, "h", (-1,), [[0, 1], [2, 3], [4, 5], [6, 7]], id="weight norm"),
        pytest.param(MODULATED, "h", (-1,), [[0, 1, 2, 3, 4, 5]], id="modulated"),
        pytest.param(SHARED, "h", (-1,), [[0, 1, 2, 3]], id="one map for all heads"),
        pytest.param(GATE, "h", (-1,), [[0, 1, 2, 3]], id="the halves of a gate"),
        pytest.param(GATE, "m", (-1,), [[0, 1, 2, 3]], id="the result of a gate"),
        pytest.param(REGISTERS, "h", (-1,), [[0, 1, 2, 3, 4, 5]], id="taken apart"),
        pytest.param(DENSE, "h", (-3,), [[0, 1, 2, 3]], id="dense connections"),
        pytest.param(DENSE, "f", (-3,), [[0, 1]], id="the later part of dense connections"),
        pytest.param(EXPERTS, "h", (-1,), [[0, 1, 2, 3]], id="rows cut by data"),
        pytest.param(STATE, "vs", (-2,), [[0, 1, 2, 3]], id="heads of a state"),
        pytest.param(
            STATE,
            "vs",
            (-2, -1),
            [[0, 1, 2]],  # one weight of the norm serves all heads
            id="values of a state",
        ),
        pytest.param(STATE, "kh", (-3, -2), [[0, 1], [2, 3], [4, 5], [6, 7]], id="keys of a state"),
    ],
)
def test_a_permutation_moves_what_belongs_together(
    text: str, name: str, axes: tuple[int, ...], members: list[list[int]]
) -> None:
    check(text, name, axes, members)


def test_an_exchange_between_groups_does_change_the_function() -> None:
    graph, inputs = filled(GROUPED)
    wanted = execute(graph, inputs)
    found = transport(graph, graph["h"], Kind.PERMUTATION)
    assert isinstance(found, Region)
    found.cells.clear()  # as if the groups did not matter
    apply(graph, found, torch.tensor([2, 1, 0, 3, 4, 5, 6, 7]))
    assert not torch.allclose(execute(graph, inputs)[0], wanted[0], rtol=1e-3)


def test_channels_that_move_together_take_one_scale() -> None:
    graph, inputs = filled(SHARED)
    wanted = execute(graph, inputs)
    found = transport(graph, graph["h"], Kind.SCALE)
    assert isinstance(found, Region)
    assert found.groups.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    apply(graph, found, random_element(found, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(execute(graph, inputs), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("body", "blocker"),
    [
        pytest.param(
            "y: c128[2, 5, 4] = fft_fftn(h, dim=(-1,))",
            "y",
            id="a Fourier transform of the channels",
        ),
        pytest.param(
            "y: f64[2, 5, 4] = cumsum(h, dim=2)", "y", id="a running sum over the channels"
        ),
        pytest.param(
            """t: f64[2, 5, 4, 1] = unsqueeze(h, dim=3)
            u: f64[2, 5, 4, 3] = expand(t, size=(2, 5, 4, 3))
            v: f64[2, 5, 4, 4] = cat((u, z), dim=3)
            y: f64[2, 5, 4, 4] = softmax(v, dim=-1)""",
            "y",
            id="a part of each row of a softmax",
        ),
        pytest.param(
            """t: f64[2, 4, 5] = permute(h, dims=(0, 2, 1))
            n: f64[2, 4, 5] = conv1d(t, k, padding=(1,), groups=2)
            s: f64[2, 2, 2, 5] = reshape(n, shape=(2, 2, 2, 5))
            u: f64[2, 2, 2, 5] = transpose(s, dim0=1, dim1=2)
            v: f64[2, 4, 5] = reshape(u, shape=(2, 4, 5))
            y: f64[2, 4, 5] = add(t, v)""",
            "n",
            id="groups that cross",
        ),
        pytest.param(
            """t: f64[2, 4, 5] = permute(h, dims=(0, 2, 1))
            y: f64[2, 4, 4] = matmul(t, h)""",
            "h",
            id="products of all with all",
        ),
        pytest.param(
            """t: f64[2, 5, 4, 1] = unsqueeze(h, dim=3)
            u: f64[2, 5, 1, 4] = unsqueeze(h, dim=2)
            y: f64[2, 5, 4, 4] = add(t, u)""",
            "h",
            id="sums of all with all",
        ),
        pytest.param(
            """g: f64[2, 5, 2] = slice(h, dim=2, start=0, end=2)
            s: f64[2, 5, 2, 1] = unsqueeze(g, dim=3)
            r: f64[2, 5, 2, 2] = reshape(h, shape=(2, 5, 2, 2))
            y: f64[2, 5, 2, 2] = mul(r, s)""",
            "h",
            id="heads whose gates are of one of them",
        ),
    ],
)
def test_what_leaves_no_two_channels_alike_is_refused(body: str, blocker: str) -> None:
    graph = parse(f"""
        def graph(x: f64[2, 5, 3], z: f64[2, 5, 4, 1], *, a: f64[4, 3], k: f64[4, 2, 3]):
            h: f64[2, 5, 4] = linear(x, a)
            {body}
            return y
    """)
    found = transport(graph, graph["h"], Kind.PERMUTATION, free=True)
    assert isinstance(found, Blocked) and found.node.name == blocker, str(found)
