from __future__ import annotations

import pytest
import torch
from graphs import fill

from regauge.ir import Graph, parse
from regauge.ir.interpret import execute
from regauge.passes import Complexify, Context, Pass, UnitScale
from regauge.passes.gauges.complexify import parts

TEXT = """
def graph(x: f32[2, 4, 6, 6], *, k: f32[8, 4, 3, 3], b: f32[8], w: f32[10, 6], c: f32[10]):
    a: f32[2, 8, 6, 6] = conv2d(x, k, b, padding=(1, 1))
    y: f32[2, 8, 6, 10] = linear(a, w, c)
    return y
"""


def test_weights_have_unit_size_and_not_a_bit_changes() -> None:
    graph = parse(TEXT)
    generator = torch.Generator().manual_seed(0)
    for name, node in graph.params.items():
        shape = [int(size) for size in node.shape]
        graph.store[name] = torch.randn(shape, generator=generator) * 0.01
    for name in ("b", "c"):
        graph.store[name].zero_()
    x = torch.randn(2, 4, 6, 6, generator=generator)
    new, remarks = UnitScale()(graph, Context(inputs=[x]))
    assert len(remarks) == 2 and all(remark.applied for remark in remarks)
    for name in ("k", "w"):
        assert 0.7 < float(new.store[name].square().mean().sqrt()) < 1.5
    assert torch.equal(execute(new, [x])[0], execute(graph, [x])[0])
    lost = [int((g.store["w"].to(torch.float8_e4m3fn).float() == 0).sum()) for g in (graph, new)]
    assert lost[0] > 0 == lost[1]  # what eight bits of floating point flush to zero


def sample(text: str) -> tuple[Graph, Context]:
    graph = parse(text)
    generator = torch.Generator().manual_seed(0)
    fill(graph, generator)
    shapes = [[int(size) for size in node.shape] for node in graph.inputs]
    return graph, Context([torch.randn(shape, dtype=torch.float64) for shape in shapes])


@pytest.mark.parametrize("step", [UnitScale(whole=False), UnitScale(), Complexify()])
def test_the_function_stays(step: Pass) -> None:
    graph, context = sample(TEXT.replace("f32", "f64"))
    new, remarks = step(graph, context)
    assert all(remark.applied for remark in remarks) and remarks
    torch.testing.assert_close(execute(new, context.inputs), execute(graph, context.inputs))


def test_what_cannot_be_done_is_said() -> None:
    odd = """
        def graph(x: f64[2, 5], *, w: f64[4, 5]):
            y: f64[2, 4] = linear(x, w)
            z: f64[2, 4] = linear(x, w)
            s: f64[2, 4] = add(y, z)
            return s
    """
    graph, context = sample(odd)
    (remark,) = Complexify().attempt(graph, context)[1]
    assert remark.text == "w has an odd size, so it has no halves"
    assert [r.text for r in UnitScale().attempt(graph, context)[1]] == [
        "w is shared, or stored as codes"
    ] * 2


def test_any_matrix_is_widely_linear() -> None:
    weight = torch.randn(6, 8, dtype=torch.float64)
    u, v = parts(weight)
    x = torch.randn(8, dtype=torch.float64)
    z = torch.complex(x[:4], x[4:])
    w = u @ z + v @ z.conj()
    torch.testing.assert_close(torch.cat([w.real, w.imag]), weight @ x)
