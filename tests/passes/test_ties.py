"""Every pass that would break a tie says which, and what the second copy costs."""

from __future__ import annotations

import pytest
import torch

from regauge.ir import Node, parse
from regauge.passes import (
    CompressResidual,
    Context,
    FoldAttentionBias,
    FoldNormAffine,
    Pass,
    Rotate,
    Smooth,
    SortChannels,
)

# Each has a parameter with a second reader, which the pass does not come to.
NORM = """
def graph(x: f32[9, 8], z: f32[9, 8], *, g: f32[8], w: f32[8, 8]):
    n: f32[9, 8] = rms_norm(x, g, normalized_shape=(8,))
    a: f32[9, 8] = linear(n, w)
    b: f32[9, 8] = linear(z, w)
    return a, b
"""
HIDDEN = """
def graph(x: f32[9, 6], z: f32[9, 8], *, u: f32[8, 6], w: f32[8, 8]):
    h: f32[9, 8] = linear(x, u)
    r: f32[9, 8] = relu(h)
    a: f32[9, 8] = linear(r, w)
    b: f32[9, 8] = linear(z, w)
    return a, b
"""
STREAM = """
def graph(x: f32[9, 6], z: f32[9, 6], *, w: f32[8, 6], u: f32[4, 8]):
    h: f32[9, 8] = linear(x, w)
    n: f32[9, 8] = layer_norm(h, normalized_shape=(8,))
    a: f32[9, 4] = linear(n, u)
    b: f32[9, 8] = linear(z, w)
    return a, b
"""
HEADS = """
def graph(q: f32[1, 2, 5, 4], x: f32[1, 5, 8], z: f32[1, 5, 8], *, u: f32[8, 8], c: f32[8],
          w: f32[8, 8]):
    v: f32[1, 5, 8] = linear(x, u, c)
    s: f32[1, 5, 2, 4] = reshape(v, shape=(1, 5, 2, 4))
    t: f32[1, 2, 5, 4] = permute(s, dims=(0, 2, 1, 3))
    o: f32[1, 2, 5, 4] = scaled_dot_product_attention(q, q, t)
    m: f32[1, 5, 2, 4] = permute(o, dims=(0, 2, 1, 3))
    r: f32[1, 5, 8] = reshape(m, shape=(1, 5, 8))
    a: f32[1, 5, 8] = linear(r, w)
    b: f32[1, 5, 8] = linear(z, w)
    return a, b
"""

SHARED = HEADS.replace("linear(z, w)", "linear(z, w, c)")


@pytest.mark.parametrize(
    ("step", "text", "param", "cost"),
    [
        pytest.param(FoldNormAffine(), NORM, "w", 256, id="a norm's weight"),
        pytest.param(Smooth(insert=False), HIDDEN, "w", 256, id="scales"),
        pytest.param(SortChannels(), HIDDEN, "w", 256, id="an order"),
        pytest.param(CompressResidual(), STREAM, "w", 192, id="a stream"),
        pytest.param(Rotate(residual=None), HEADS, "w", 256, id="heads"),
        pytest.param(FoldAttentionBias(), SHARED, "c", 32, id="a bias"),
    ],
)
def test_the_cost_is_told(step: Pass, text: str, param: str, cost: int) -> None:
    graph = parse(text)
    generator = torch.Generator().manual_seed(0)

    def noise(node: Node) -> torch.Tensor:
        shape = [int(size) for size in node.shape]
        return torch.randn(shape, generator=generator, dtype=torch.float32)

    for name, node in graph.params.items():
        graph.store[name] = noise(node)
    inputs = [noise(node) for node in graph.inputs]
    _, remarks = step.attempt(graph, Context(inputs=inputs, calibration=[inputs]))
    sentence = f"it would break the tie of {param}, at a cost of {cost} bytes"
    assert any(sentence in remark.text for remark in remarks), [str(r) for r in remarks]
