"""Small graphs for tests: written as text, with random numbers in all parameters and inputs."""

from __future__ import annotations

import torch

from regauge.ir import Graph, TensorType, parse
from regauge.ir.types import evaluate

SIZES = {"n": 3, "t": 5}  # of the symbols in a text

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

# A linear attention: keys and values are summed up to a state of each head, with a gate for each;
# the channels of keys and queries are mixed with what came before, each alone.
STATE = """
def graph(x: f64[2, 5, 3], *, wv: f64[12, 3], wg: f64[4, 3], wp: f64[16, 3], c: f64[16, 1, 1],
          n: f64[3], wo: f64[3, 12]):
    v: f64[2, 5, 12] = linear(x, wv)
    vs: f64[2, 5, 4, 3] = reshape(v, shape=(2, 5, 4, 3))
    g: f64[2, 5, 4] = linear(x, wg)
    gs: f64[2, 5, 4, 1] = unsqueeze(g, dim=3)
    e: f64[2, 5, 4, 3] = mul(vs, gs)
    eh: f64[2, 4, 5, 3] = transpose(e, dim0=1, dim1=2)
    p: f64[2, 5, 16] = linear(x, wp)
    pt: f64[2, 16, 5] = transpose(p, dim0=1, dim1=2)
    pc: f64[2, 16, 5] = conv1d(pt, c, groups=16)
    k: f64[2, 8, 5] = slice(pc, dim=1, start=0, end=8)
    kh: f64[2, 4, 2, 5] = reshape(k, shape=(2, 4, 2, 5))
    kr: f64[2, 4, 2, 5] = repeat_interleave(kh, repeats=1, dim=1, output_size=4)
    q: f64[2, 8, 5] = slice(pc, dim=1, start=8, end=16)
    qh: f64[2, 4, 2, 5] = reshape(q, shape=(2, 4, 2, 5))
    qt: f64[2, 4, 5, 2] = transpose(qh, dim0=2, dim1=3)
    s: f64[2, 4, 2, 3] = matmul(kr, eh)
    r: f64[2, 4, 5, 3] = matmul(qt, s)
    m: f64[2, 4, 5, 3] = rms_norm(r, n, normalized_shape=(3,), eps=0.1)
    t: f64[2, 5, 4, 3] = transpose(m, dim0=1, dim1=2)
    f: f64[2, 5, 12] = reshape(t, shape=(2, 5, 12))
    y: f64[2, 5, 3] = linear(f, wo)
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


def random(type_: TensorType, sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    """Integers from 0 to 3, int8 codes over their range, the rest from a normal distribution."""
    shape = [evaluate(size, sizes) for size in type_.shape]
    if type_.dtype == torch.bool:
        return torch.rand(shape, generator=generator) > 0.4
    if type_.dtype == torch.int8:
        return torch.randint(-127, 128, shape, generator=generator).to(torch.int8)
    if not type_.dtype.is_floating_point:
        return torch.randint(0, 4, shape, generator=generator).to(type_.dtype)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(type_.dtype)


def make(head: str, *body: str) -> Graph:
    """A graph whose last line is its result; parameters like ``var`` and ``scale`` are positive."""
    result = body[-1].split(":")[0].split(" =")[0]
    ranges = [f"assert 0 <= {name}" for name in SIZES]
    graph = parse("\n    ".join([f"def graph({head}):", *ranges, *body, f"return {result}"]))
    generator = torch.Generator().manual_seed(0)
    for name in graph.params:
        value = random(graph.store.type(name), {}, generator)
        positive = "var" in name or "scale" in name
        graph.store[name] = value.abs() * 0.05 + 0.02 if positive else value
    return graph


def feed(graph: Graph, **sizes: int) -> list[torch.Tensor]:
    """Random inputs; symbols are 3 and 5 where not given."""
    generator = torch.Generator().manual_seed(1)
    return [random(node.tensor, SIZES | sizes, generator) for node in graph.inputs]
