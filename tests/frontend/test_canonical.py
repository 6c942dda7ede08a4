"""Each rule on a graph as text; the texts are in ``canonical/``, one file for a family of rules.

A case is a line ``## what it is about``, the graph before, a line ``->`` and the graph after;
without the arrow it is a near miss, which stays as it is. Parameters called ``buffer`` are not
weights.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from regauge.frontend.canonical import canonicalize, check
from regauge.ir import Graph, GraphError, parse
from regauge.ir.interpret import execute

FOLDER = Path(__file__).with_name("canonical")
TRIANGLE = torch.ones(1, 1, 16, 16, dtype=torch.bool).tril()
VALUES = {
    "a stored triangle": {"causal": TRIANGLE},
    "batch norm": {"v": torch.tensor([0.5, 1, 2])},
    "greatest of each bag, by offsets that are stored with the end of the last": {
        "bufferthirds": torch.tensor([0, 2, 4, 6])
    },
    "one bag": {"bufferstart": torch.tensor([0])},
    "bags of several sizes": {"bufferuneven": torch.tensor([0, 1, 4])},
    "a last bag that is longer": {"bufferstarts": torch.tensor([0, 2, 4])},
    "a padding that does not count": {"bufferstarts": torch.tensor([0, 2, 4])},
    "positions in another order": {"buffer": torch.tensor([3, 1])},
}
# Float32 cannot tell 0.79788456 from the root of 2 / pi; float64 can.
TOLERANCE = {"GELU by tanh with rounded constants": 1e-8}


def cases() -> list[object]:
    found: list[object] = []
    for file in sorted(FOLDER.glob("*.txt")):
        for part in file.read_text().split("## ")[1:]:
            name, _, text = part.partition("\n")
            before, _, after = text.partition("->\n")
            found.append(pytest.param(name, before, after or before, id=f"{file.stem}: {name}"))
    return found


@pytest.mark.parametrize(("name", "before", "after"), cases())
def test_becomes(becomes: Callable[..., Graph], name: str, before: str, after: str) -> None:
    becomes(before, after, tolerance=TOLERANCE.get(name, 1e-12), **VALUES.get(name, {}))


def test_a_raised_node_keeps_the_place_in_the_users_code() -> None:
    graph = parse("""
        def graph(x: f32[2, 4]):
            s = sigmoid(x)
            y = mul(x, s)
            return y
    """)
    graph["y"].where = "model.py:7 forward"
    canonicalize(graph)
    assert graph["silu"].where == "model.py:7 forward"


def test_a_moved_weight_keeps_the_names_that_the_user_knows() -> None:
    graph = parse("""
        def graph(x: f32[2, 4], *, w: f32[4, 5]):
            y = matmul(x, w)
            return y
    """)
    graph.store["w"] = torch.randn(4, 5)
    graph.store.origin["w"] = ("decoder.weight",)
    value = graph.store["w"]
    canonicalize(graph)
    (name,) = graph.params
    assert (name, graph.store.origin[name]) == ("decoder_weight", ("decoder.weight",))
    assert torch.equal(graph.store[name], value.T)


def test_a_folded_constant_is_exact_in_float64() -> None:
    graph = parse("""
        def graph(x: f32[2, 4], *, buffer: f32[4]):
            c = cos(buffer)
            y = mul(x, c)
            return y
    """)
    graph.store["buffer"] = torch.linspace(0, 1, 4)
    canonicalize(graph, learned=())
    lazy = graph.store.tensors["cos"]
    assert torch.equal(graph.store["cos"], torch.linspace(0, 1, 4).cos())
    assert torch.equal(lazy.exact(), torch.linspace(0, 1, 4).double().cos())  # type: ignore[union-attr]


def test_memory_as_it_happens_to_be_is_zeros() -> None:
    graph = parse("""
        def graph(x: f32[2, 4], i: i64[1], v: f32[1, 4]):
            a = aten.empty_like.default(x)
            b = aten.empty.memory_format(size=(2, 4), dtype=f32)
            c = index_put(a, (i,), v)
            d = index_put(b, (i,), v)
            return c, d
    """)
    canonicalize(graph)
    inputs = [torch.ones(2, 4), torch.tensor([1]), torch.ones(1, 4)]
    for found in execute(graph, inputs):
        assert found.tolist() == [[0.0] * 4, [1.0] * 4]


def test_a_grouped_product_is_ours_whatever_it_was_written_as() -> None:
    graph = parse("""
        def graph(x: bf16[16, 8], e: i32[2], *, w: bf16[2, 8, 8]):
            y = aten._grouped_mm.default(x, w, e)
            return y
    """)
    graph.store["w"] = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    inputs = [x, torch.tensor([5, 16], dtype=torch.int32)]
    wanted = execute(graph, inputs)
    canonicalize(graph)
    assert [node.op for node in graph.nodes] == ["grouped_mm"]
    torch.testing.assert_close(execute(graph, inputs), wanted)


def test_no_constant_is_made_too_large() -> None:
    graph = parse("""
        def graph(x: i64[2048, 1024]):
            a: i64[2048] = arange(end=2048, dtype=i64)
            b: i64[2048, 1] = unsqueeze(a, dim=1)
            c: i64[1024] = arange(end=1024, dtype=i64)
            d: i64[2048, 1024] = remainder(b, c)
            y: i64[2048, 1024] = mul(x, d)
            return y
    """)
    canonicalize(graph)
    assert [node.op for node in graph.nodes] == ["remainder", "mul"]
    assert graph.store.bytes() == 8 * (2048 + 1024)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("y = clone(x)", "clone stands for its operand", id="replaced"),
        pytest.param("y = permute(x, dims=(-1, 0))", "y does not count its axes", id="axes"),
        pytest.param("z = relu(x)\n    y = neg(x)", "z is computed and nobody reads it", id="dead"),
    ],
)
def test_check_refuses(text: str, message: str) -> None:
    graph = parse(f"def graph(x: f32[2, 4]):\n    {text}\n    return y")
    with pytest.raises(GraphError, match=message):
        check(graph)


def test_a_split_at_places_that_are_data_may_stay() -> None:
    check(
        parse("""
        def graph(x: f32[4, 3], n: int):
            s: (f32[u, 3], f32[v, 3]) = aten.split_with_sizes.default(x, split_sizes=(n, n))
            a: f32[u, 3] = getitem(s, 0)
            return a
        """)
    )
