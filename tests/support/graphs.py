"""Small graphs for tests: written as text, with random numbers in all parameters and inputs."""

from __future__ import annotations

import torch

from regauge.ir import Graph, parse

# Grouped queries: 4 heads of queries share 2 of keys and values.
GROUPED = """
def graph(x: f64[2, 5, 8], *, wq: f64[12, 8], wk: f64[6, 8], wv: f64[6, 8], wo: f64[8, 12]):
    q: f64[2, 5, 12] = linear(x, wq)
    qs: f64[2, 5, 4, 3] = reshape(q, shape=(2, 5, 4, 3))
    qh: f64[2, 4, 5, 3] = transpose(qs, dim0=1, dim1=2)
    k: f64[2, 5, 6] = linear(x, wk)
    ks: f64[2, 5, 2, 3] = reshape(k, shape=(2, 5, 2, 3))
    kh: f64[2, 2, 5, 3] = transpose(ks, dim0=1, dim1=2)
    v: f64[2, 5, 6] = linear(x, wv)
    vs: f64[2, 5, 2, 3] = reshape(v, shape=(2, 5, 2, 3))
    vh: f64[2, 2, 5, 3] = transpose(vs, dim0=1, dim1=2)
    a: f64[2, 4, 5, 3] = scaled_dot_product_attention(qh, kh, vh, enable_gqa=True)
    t: f64[2, 5, 4, 3] = transpose(a, dim0=1, dim1=2)
    m: f64[2, 5, 12] = reshape(t, shape=(2, 5, 12))
    y: f64[2, 5, 8] = linear(m, wo)
    return y
"""


def fill(graph: Graph, generator: torch.Generator, *, level: bool = False) -> None:
    """Give all parameters standard normal numbers; ``level`` keeps what is made of them as great as
    what goes in."""
    for name, node in graph.params.items():
        shape = [int(size) for size in node.shape]
        value = torch.randn(shape, generator=generator, dtype=node.dtype)
        graph.store[name] = value / shape[-1] ** 0.5 if level else value


def filled(text: str, seed: int = 1) -> tuple[Graph, list[torch.Tensor]]:
    """The graph of a text, and inputs for it: all standard normal, in float64."""
    graph = parse(text)
    generator = torch.Generator().manual_seed(seed)
    fill(graph, generator)
    shapes = [[int(size) for size in node.shape] for node in graph.inputs]
    return graph, [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
