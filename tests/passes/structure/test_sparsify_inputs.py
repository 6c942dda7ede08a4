"""Inputs that are left to few directions: which, at what cost, and what is lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from graphs import filled

from regauge.backends.onnxruntime import lower
from regauge.ir import Graph, InputError, SiteError, astype
from regauge.ir.interpret import execute, values_of
from regauge.passes import Context, SparsifyInputs
from regauge.passes.manager import difference

LAYERS = """
def graph(x: f64[3, 200, 16], *, a: f64[24, 16], c: f64[24], b: f64[16, 24], o: f64[5, 16]):
    h: f64[3, 200, 24] = linear(x, a, c)
    r: f64[3, 200, 24] = relu(h)
    z: f64[3, 200, 16] = linear(r, b)
    y: f64[3, 200, 5] = linear(z, o)
    return y
"""


def layers() -> tuple[Graph, Context]:
    graph, inputs = filled(LAYERS)
    mixing = torch.randn(
        16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    ) * torch.logspace(0, -1.5, 16, dtype=torch.float64)
    inputs = [inputs[0] ** 3 @ mixing.T]
    return graph, Context(inputs=inputs, calibration=[inputs])


def lost(step: SparsifyInputs) -> float:
    graph, context = layers()
    found = step(graph, context)[0]
    return difference(execute(found, context.inputs), execute(graph, context.inputs))


def test_nothing_is_lost_where_all_is_read() -> None:
    assert lost(SparsifyInputs(0.0, shares=(1.0,))) < 1e-9


def test_nothing_is_lost_where_the_rest_has_full_rank() -> None:
    """n k + r (n + O) numbers are as many as the weight's, and r is all of the rank."""
    graph, context = layers()
    step = SparsifyInputs(0.0, shares=(1e-9,), sites=("y",))
    found, remarks = step(graph, context)
    assert [r.data["rank"] for r in remarks if r.applied] == [3]  # of 5
    graph.store["o"] = torch.cat([graph.store["o"][:3], graph.store["o"][:2]])
    found, _ = step(graph, context)
    assert difference(execute(found, context.inputs), execute(graph, context.inputs)) < 1e-9


def test_so_many_inputs_are_kept() -> None:
    graph, context = layers()
    found, remarks = SparsifyInputs(0.5, shares=(0.8,))(graph, context)
    kept: dict[str, float] = {}

    def tap(node: Any, value: torch.Tensor) -> None:
        if node.op == "masked_fill":
            kept[node.name] = float((value != 0).double().mean())

    execute(found, context.inputs, tap=tap)
    assert kept["h_masked_fill"] == pytest.approx(6 / 16, abs=2e-3)  # floor(16 * 0.5 * 0.8)
    assert kept["z_masked_fill"] == pytest.approx(9 / 24, abs=2e-3)
    assert [r.data["rank"] for r in remarks if r.applied] == [(192 - 24 * 6) // 40, 48 // 40]
    reads = {node.args[0].name for node in found.nodes if node.args[1:] == (found["a"], found["c"])}
    assert reads == {"h_masked_fill"}


def test_the_masked_part_is_what_the_formula_says() -> None:
    graph, context = layers()
    found, _ = SparsifyInputs(0.5, shares=(0.8,), sites=("h",))(graph, context)
    x, store = context.inputs[0], found.store
    mask = x.abs() * store["a_column_norm"] > 1.0
    kept, rest = x * mask, x * ~mask
    h = kept @ store["a"].T + store["c"] + rest @ store["a_low"].T @ store["a_high"].T
    norms = graph.store["a"].norm(dim=0)
    assert float((store["a_column_norm"] / norms).std()) < 1e-9
    y = (h.relu() @ store["b"].T) @ store["o"].T
    torch.testing.assert_close(execute(found, [x])[0], y)


def test_each_part_of_the_method_loses_less() -> None:
    """Inputs none of which is small by itself, and a weight of few directions."""
    graph, inputs = filled(LAYERS)
    left, values, right = torch.linalg.svd(graph.store["a"], full_matrices=False)
    decay = torch.logspace(0, -5, len(values), dtype=torch.float64)
    graph.store["a"] = (left * values * decay) @ right
    context = Context(inputs=inputs, calibration=[inputs])
    plain = SparsifyInputs(0.5, low_rank=False, by_weights=False, sites=("h",))
    ways = [
        plain,
        replace(plain, by_weights=True),
        replace(plain, by_weights=True, low_rank=True, whitened=False),
        replace(plain, by_weights=True, low_rank=True),
    ]
    found = [step(graph, context)[1][0].data["lost"] for step in ways]
    assert found[3] <= found[2] < 0.7 * found[1] < 0.7 * found[0]
    chosen = ways[3](graph, context)[1][0].data["share"]
    assert chosen < 1
    for share in ways[3].shares:
        other = replace(ways[3], shares=(share,))(graph, context)[1][0].data["lost"]
        assert other >= found[3]


def test_onnx_runtime_gives_the_same() -> None:
    graph, context = layers()
    single = astype(SparsifyInputs(0.5)(graph, context)[0], torch.float32)
    inputs = [context.inputs[0].float()]
    found, wanted = lower(single)(inputs)[0], execute(single, inputs)[0]
    assert difference([found], [wanted]) < 1e-3  # an input at the threshold may fall either way


def test_what_would_read_nothing_is_refused_with_the_most_that_can_go() -> None:
    graph, context = layers()
    with pytest.raises(InputError, match="lets h read none of its") as raised:
        SparsifyInputs(0.999)(graph, context)
    most = float(raised.value.do.partition("=")[2].partition(",")[0])
    _, remarks = SparsifyInputs(most)(graph, context)
    assert any(remark.applied for remark in remarks)


def test_a_part_that_has_no_exact_fraction_keeps_all_that_it_says() -> None:
    """10 (1 - 0.9) is below 1 in floating point, and one input it is."""
    graph, inputs = filled("""
        def graph(x: f64[50, 10], *, a: f64[12, 10]):
            h: f64[50, 12] = linear(x, a)
            y: f64[50, 12] = tanh(h)
            return y
        """)
    context = Context(inputs=inputs, calibration=[inputs])
    found, _ = SparsifyInputs(0.9, low_rank=False)(graph, context)
    (kept,) = values_of(found, inputs, [n for n in found.nodes if n.op == "masked_fill"])
    assert int((kept != 0).sum()) == 50


def test_heads_are_left_alone_unless_asked_for() -> None:
    graph, context = layers()
    _, remarks = SparsifyInputs()(graph, context)
    assert [r.text for r in remarks if r.site == "y"] == ["it is a head: all that it reads counts"]
    _, remarks = SparsifyInputs(sites=("y",))(graph, context)
    assert [r.site for r in remarks if r.applied] == ["y"]
    with pytest.raises(SiteError, match="h is protected"):
        SparsifyInputs(sites=("h",), protect=("h",))(graph, context)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sparsity": 1.0}, "not the part of a weight"),
        ({"shares": ()}, "not parts of what is read"),
        ({"shares": (1.5,)}, "not parts of what is read"),
        ({"damping": -1.0}, "damping=-1.0 is not"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        SparsifyInputs(**options)
