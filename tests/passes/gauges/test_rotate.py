"""Streams, heads and inputs are turned where it is free, or worth an op."""

from __future__ import annotations

import pytest
import torch
from graphs import fill

from regauge.ir import Graph, parse
from regauge.ir.interpret import execute
from regauge.passes import Context, Remark, Rotate
from regauge.passes.manager import difference

STREAM = """
def graph(t: i64[2, 5], *, e: f64[30, 12], g: f64[12], a: f64[16, 12], b: f64[12, 16], h: {head}):
    x: f64[2, 5, 12] = embedding(e, t)
    n: f64[2, 5, 12] = rms_norm(x, g, normalized_shape=(12,), eps=1e-06)
    u: f64[2, 5, 16] = linear(n, a)
    r: f64[2, 5, 16] = relu(u)
    d: f64[2, 5, 12] = linear(r, b)
    s: f64[2, 5, 12] = add(x, d)
    m: f64[2, 5, 12] = rms_norm(s, g2, normalized_shape=(12,), eps=1e-06)
    y: f64[2, 5, 30] = linear(m, {table})
    return y
"""

IDS = torch.randint(0, 30, (2, 5), generator=torch.Generator().manual_seed(3))


def turned(text: str, **options: object) -> tuple[Graph, Graph, list[Remark]]:
    """A graph with random weights, what became of it, and the remarks; equal in float64."""
    graph = parse(text)
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator)
    ids = IDS
    context = Context(inputs=[ids], calibration=[[ids]])
    new, remarks = Rotate(**options).attempt(graph, context)  # type: ignore[arg-type]
    assert difference(execute(new, [ids]), execute(graph, [ids])) < 1e-12
    return graph, new, remarks


def stream(tied: bool) -> str:
    text = STREAM.format(head="f64[30, 12]", table="e" if tied else "h")
    return text.replace("h: f64[30, 12]", "h: f64[30, 12], g2: f64[12]").replace(
        "h: f64[30, 12], g2", "g2" if tied else "h: f64[30, 12], g2"
    )


@pytest.mark.parametrize("matrix", ["hadamard", "random", "pca"])
def test_a_stream_is_turned_by_its_weights(matrix: str) -> None:
    graph, new, remarks = turned(stream(tied=False), residual=matrix)
    assert [node.op for node in new.nodes] == [node.op for node in graph.nodes]
    ids = IDS
    values: dict[str, torch.Tensor] = {}
    execute(graph, [ids], tap=lambda n, v: values.__setitem__(f"old {n.name}", v))
    execute(new, [ids], tap=lambda n, v: values.__setitem__(f"new {n.name}", v))
    before, after = values["old x"], values["new x"]
    assert not torch.allclose(before, after)
    torch.testing.assert_close(before.norm(dim=-1), after.norm(dim=-1))
    assert "0 ops; 2 norms" in remarks[-1].text


def test_principal_axes_come_in_the_order_of_their_variance() -> None:
    _, new, _ = turned(stream(tied=False), residual="pca")
    seen: list[torch.Tensor] = []
    execute(new, [IDS], tap=lambda n, v: seen.append(v) if n.name in ("n", "m") else None)
    power = torch.stack([v.reshape(-1, 12).square().sum(0) for v in seen]).sum(0)
    assert bool((power.diff() < 0).all()) and power[0] > 5 * power[-1]


def test_a_shared_table_stays_shared_at_the_cost_of_two_ops() -> None:
    graph, new, remarks = turned(stream(tied=True))
    assert "2 ops" in remarks[-1].text or "not worth" in remarks[-1].text
    (embedding,) = (node for node in new.nodes if node.op == "embedding")
    assert embedding.args[0].name == "e" and len(embedding.args[0].users) == 2
    _, untied, _ = turned(stream(tied=True), untie=True)
    assert untied.store.bytes() > graph.store.bytes()


def test_what_contractions_read_may_be_turned_by_an_op() -> None:
    _, new, remarks = turned(stream(tied=False), inputs=True)
    assert [r.text for r in remarks if "order" in r.text and "op of" in r.text] == [
        "turned by an op of order 16"
    ]
    (reader,) = (node for node in new.nodes if node.name == "d")
    assert reader.args[0].op == "reshape"


def test_blocks_of_what_contractions_read_may_be_turned() -> None:
    _, new, remarks = turned(stream(tied=False), residual=None, heads=None, inputs=4)
    assert [r.text for r in remarks] == [
        f"turned by an op of order 4, in {count} blocks" for count in (3, 4, 3)
    ]
    matrices = [new.store[name] for name in new.params if "rotation" in name]
    assert [tuple(matrix.shape) for matrix in matrices] == [(4, 4)]
    _, _, remarks = turned(stream(tied=False), residual=None, heads=None, inputs=16)
    assert [r.text for r in remarks if r.applied] == ["turned by an op of order 16"]
    assert {r.text for r in remarks if not r.applied} == {"its 12 channels are no blocks of 16"}
    assert {r.do for r in remarks if not r.applied} == {"inputs=2, 4 or 12"}


def test_an_order_without_factors_is_named() -> None:
    graph = parse(
        "def graph(x: f64[3, 7], *, w: f64[4, 7]):\n    y: f64[3, 4] = linear(x, w)\n    return y"
    )
    fill(graph, torch.Generator().manual_seed(0))
    new, (remark,) = Rotate(inputs=True).attempt(graph, Context(inputs=[torch.randn(3, 7)]))
    assert str(new) == str(graph) and remark.text == "there is no Hadamard matrix for 7 channels"


def test_the_same_seed_gives_the_same_weights() -> None:
    one, other = (turned(stream(tied=False))[1] for _ in range(2))
    for name in one.params:
        assert torch.equal(one.store[name], other.store[name])


def test_a_norm_that_centres_is_left_and_named() -> None:
    text = stream(tied=False).replace("rms_norm", "layer_norm").replace(", eps=1e-06", "")
    _, _, remarks = turned(text)
    assert not [r for r in remarks if "turned by" in r.text]
    assert {r.site for r in remarks} <= {"n", "m"}


@pytest.mark.parametrize("sizes", ["k, 5", "k, t"])
def test_an_op_turns_values_of_any_sizes(sizes: str) -> None:
    graph = parse(stream(tied=False).replace("2, 5", sizes))
    fill(graph, torch.Generator().manual_seed(0))
    context = Context(inputs=[IDS], calibration=[[IDS]])
    new, remarks = Rotate(residual=None, heads=None, inputs=True)(graph, context)
    assert len(remarks) == 3
    for ids in (IDS, IDS[:1], IDS.repeat(3, 1)):
        assert difference(execute(new, [ids]), execute(graph, [ids])) < 1e-12
