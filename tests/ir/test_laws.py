"""Every law in the table, on random float64 numbers, against plain evaluation.

A case is a one-op graph. Each of its values in turn is acted on by a random element of each kind of group; where
the law lets it pass, the op with all the changes that the law asks for must give exactly what the law says.
"""

from __future__ import annotations

import pytest
import torch
from regauge.ir import Graph, parse
from regauge.ir.gauge import Region, apply, transformed, transport
from regauge.ir.interpret import execute
from regauge.ir.laws import OPAQUE, Kind
from regauge.ir.ops import OPS

UNARY = "def graph(x: f64[2, 3, 6]):\n y: f64[2, 3, 6] = {op}(x{attrs})\n return y"
BINARY = "def graph(x: f64[2, 3, 6], z: f64[2, 3, 6]):\n y: f64[2, 3, 6] = {op}(x, z)\n return y"
ATTRS = {"to": ", dtype=f64", "leaky_relu": ", negative_slope=0.1", "clamp": ", min=0.1", "softmax": ", dim=-1",
         "log_softmax": ", dim=-1"}  # fmt: skip
GRAPHS: dict[str, list[str]] = {
    "linear": [
        "def graph(x: f64[2, 3, 6], *, w: f64[4, 6], b: f64[4]):\n y: f64[2, 3, 4] = linear(x, w, b)\n return y",
        "def graph(x: f64[2, 3, 6], *, w: f64[4, 6]):\n y: f64[2, 3, 4] = linear(x, w)\n return y",
    ],
    "matmul": ["def graph(x: f64[2, 3, 6], z: f64[2, 6, 4]):\n y: f64[2, 3, 4] = matmul(x, z)\n return y"],
    "bmm": ["def graph(x: f64[2, 3, 6], z: f64[2, 6, 4]):\n y: f64[2, 3, 4] = bmm(x, z)\n return y"],
    "scaled_dot_product_attention": [
        """def graph(q: f64[2, 4, 5, 6], k: f64[2, 4, 7, 6], v: f64[2, 4, 7, 3]):
            y: f64[2, 4, 5, 3] = scaled_dot_product_attention(q, k, v)
            return y""",
        """def graph(q: f64[2, 4, 5, 6], k: f64[2, 2, 5, 6], v: f64[2, 2, 5, 3]):
            y: f64[2, 4, 5, 3] = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            return y""",
    ],
    "conv1d": [
        """def graph(x: f64[2, 6, 9], *, w: f64[4, 6, 3], b: f64[4]):
            y: f64[2, 4, 7] = conv1d(x, w, b)
            return y"""
    ],
    "conv2d": [
        """def graph(x: f64[2, 6, 5, 5], *, w: f64[4, 3, 3, 3], b: f64[4]):
            y: f64[2, 4, 5, 5] = conv2d(x, w, b, padding=(1, 1), groups=2)
            return y""",
        """def graph(x: f64[2, 6, 5, 5], *, w: f64[6, 1, 3, 3]):
            y: f64[2, 6, 3, 3] = conv2d(x, w, groups=6)
            return y""",
        """def graph(x: f64[2, 6, 5, 5], *, w: f64[4, 6, 3, 3], b: f64[4]):
            y: f64[2, 4, 3, 3] = conv2d(x, w, b)
            return y""",
    ],
    "conv3d": [
        """def graph(x: f64[2, 6, 4, 4, 4], *, w: f64[4, 6, 2, 2, 2], b: f64[4]):
            y: f64[2, 4, 3, 3, 3] = conv3d(x, w, b)
            return y"""
    ],
    "embedding": ["def graph(t: i64[2, 3], *, w: f64[3, 6]):\n y: f64[2, 3, 6] = embedding(w, t)\n return y"],
    "layer_norm": [
        """def graph(x: f64[2, 3, 6], *, w: f64[6], b: f64[6]):
            y: f64[2, 3, 6] = layer_norm(x, w, b, normalized_shape=(6,))
            return y"""
    ],
    "rms_norm": [
        """def graph(x: f64[2, 3, 6], *, w: f64[6]):
            y: f64[2, 3, 6] = rms_norm(x, w, normalized_shape=(6,), eps=1e-06)
            return y""",
        """def graph(x: f64[2, 3, 6]):
            y: f64[2, 3, 6] = rms_norm(x, normalized_shape=(6,), eps=1e-06)
            return y""",
    ],
    "group_norm": [
        """def graph(x: f64[2, 6, 5], *, w: f64[6], b: f64[6]):
            y: f64[2, 6, 5] = group_norm(x, w, b, num_groups=2)
            return y"""
    ],
    "batch_norm": [
        """def graph(x: f64[2, 6, 5], *, w: f64[6], b: f64[6], m: f64[6], v: f64[6]):
            y: f64[2, 6, 5] = batch_norm(x, w, b, m, v, training=False, momentum=0.1, eps=1e-05, cudnn_enabled=False)
            return y"""
    ],
    "add": [
        BINARY.format(op="add"),
        "def graph(x: f64[2, 3, 6], *, w: f64[6]):\n y: f64[2, 3, 6] = add(x, w)\n return y",
        "def graph(x: f64[2, 3, 6], *, w: f64[1]):\n y: f64[2, 3, 6] = add(x, w)\n return y",
        "def graph(x: f64[2, 3, 6]):\n y: f64[2, 3, 6] = add(x, 1.0)\n return y",
    ],
    "sub": [BINARY.format(op="sub")],
    "rsub": [BINARY.format(op="rsub"), "def graph(x: f64[2, 3, 6]):\n y: f64[2, 3, 6] = rsub(x, 1.0)\n return y"],
    "mul": [
        BINARY.format(op="mul"),
        "def graph(x: f64[2, 3, 6], z: f64[2, 3, 1]):\n y: f64[2, 3, 6] = mul(x, z)\n return y",
        "def graph(x: f64[2, 3, 6], *, w: f64[6]):\n y: f64[2, 3, 6] = mul(x, w)\n return y",
        "def graph(x: f64[2, 3, 6]):\n y: f64[2, 3, 6] = mul(x, 3.0)\n return y",
        "def graph(x: f64[2, 3, 6]):\n y: f64[2, 3, 6] = mul(x, x)\n return y",
    ],
    "div": [BINARY.format(op="div"), "def graph(x: f64[2, 3, 6]):\n y: f64[2, 3, 6] = div(x, 3.0)\n return y"],
    "where": [
        """def graph(c: bool[2, 3, 1], x: f64[2, 3, 6], z: f64[2, 3, 6]):
            y: f64[2, 3, 6] = where(c, x, z)
            return y"""
    ],
    "masked_fill": [
        """def graph(x: f64[2, 3, 6], c: bool[2, 3, 1]):
            y: f64[2, 3, 6] = masked_fill(x, c, 0.0)
            return y"""
    ],
    "reshape": [
        "def graph(x: f64[2, 3, 6]):\n y: f64[2, 3, 2, 3] = reshape(x, shape=(2, 3, 2, 3))\n return y",
        "def graph(x: f64[2, 3, 6]):\n y: f64[6, 6] = reshape(x, shape=(6, 6))\n return y",
    ],
    "permute": ["def graph(x: f64[2, 3, 6]):\n y: f64[6, 2, 3] = permute(x, dims=(2, 0, 1))\n return y"],
    "transpose": ["def graph(x: f64[2, 3, 6]):\n y: f64[2, 6, 3] = transpose(x, dim0=1, dim1=2)\n return y"],
    "unsqueeze": ["def graph(x: f64[2, 3, 6]):\n y: f64[2, 3, 1, 6] = unsqueeze(x, dim=2)\n return y"],
    "squeeze": ["def graph(x: f64[2, 1, 6]):\n y: f64[2, 6] = squeeze(x, dim=1)\n return y"],
    "expand": ["def graph(x: f64[2, 1, 6]):\n y: f64[2, 3, 6] = expand(x, size=(2, 3, 6))\n return y"],
    "slice": ["def graph(x: f64[2, 3, 6]):\n y: f64[2, 3, 2] = slice(x, dim=2, start=1, end=3)\n return y"],
    "select": ["def graph(x: f64[2, 3, 6]):\n y: f64[2, 6] = select(x, dim=1, index=0)\n return y"],
    "cat": [
        "def graph(x: f64[2, 3, 6], z: f64[2, 3, 6]):\n y: f64[2, 3, 12] = cat((x, z), dim=-1)\n return y",
        "def graph(x: f64[2, 3, 6], z: f64[2, 3, 6]):\n y: f64[2, 6, 6] = cat((x, z), dim=1)\n return y",
    ],
    "stack": ["def graph(x: f64[2, 6], z: f64[2, 6]):\n y: f64[2, 2, 6] = stack((x, z), dim=1)\n return y"],
    "flip": ["def graph(x: f64[2, 3, 6]):\n y: f64[2, 3, 6] = flip(x, dims=(2,))\n return y"],
    "roll": ["def graph(x: f64[2, 3, 6]):\n y: f64[2, 3, 6] = roll(x, shifts=(1,), dims=(2,))\n return y"],
    "repeat": ["def graph(x: f64[2, 6]):\n y: f64[2, 12] = repeat(x, repeats=(1, 2))\n return y",
        "def graph(x: f64[2, 6]):\n y: f64[4, 6] = repeat(x, repeats=(2, 1))\n return y"],
    "repeat_interleave": [
        "def graph(x: f64[2, 6]):\n y: f64[2, 12] = repeat_interleave(x, repeats=2, dim=1)\n return y",
        "def graph(x: f64[2, 6]):\n y: f64[4, 6] = repeat_interleave(x, repeats=2, dim=0)\n return y",
    ],
    "pixel_shuffle": [
        "def graph(x: f64[2, 8, 3, 3]):\n y: f64[2, 2, 6, 6] = pixel_shuffle(x, upscale_factor=2)\n return y"
    ],
    "pixel_unshuffle": [
        "def graph(x: f64[2, 2, 6, 6]):\n y: f64[2, 8, 3, 3] = pixel_unshuffle(x, downscale_factor=2)\n return y"
    ],
    "mean": [
        "def graph(x: f64[2, 3, 6]):\n y: f64[2, 6] = mean(x, dim=(1,))\n return y",
        "def graph(x: f64[2, 3, 6]):\n y: f64[2, 3, 1] = mean(x, dim=(-1,), keepdim=True)\n return y",
    ],
    "sum": ["def graph(x: f64[2, 3, 6]):\n y: f64[2, 6] = sum(x, dim=(1,))\n return y"],
    "amax": ["def graph(x: f64[2, 3, 6]):\n y: f64[2, 6] = amax(x, dim=(1,))\n return y"],
    "amin": ["def graph(x: f64[2, 3, 6]):\n y: f64[2, 1, 6] = amin(x, dim=(1,), keepdim=True)\n return y"],
    "max_pool2d": [
        "def graph(x: f64[2, 6, 4, 4]):\n y: f64[2, 6, 2, 2] = max_pool2d(x, kernel_size=(2, 2))\n return y"
    ],
    "avg_pool2d": [
        "def graph(x: f64[2, 6, 4, 4]):\n y: f64[2, 6, 2, 2] = avg_pool2d(x, kernel_size=(2, 2))\n return y"
    ],
    "adaptive_avg_pool2d": [
        "def graph(x: f64[2, 6, 4, 4]):\n y: f64[2, 6, 1, 1] = adaptive_avg_pool2d(x, output_size=(1, 1))\n return y"
    ],
}  # fmt: skip


def graphs(op: str) -> list[str]:
    return GRAPHS.get(op) or [UNARY.format(op=op, attrs=ATTRS.get(op, ""))]


LAWS = [name for name, op in OPS.items() if op.law is not OPAQUE and name not in ("logical_not", "bitwise_not")]


def element(region: Region, generator: torch.Generator) -> torch.Tensor:
    """A random element of the region's group."""
    n = region.size
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    match region.kind:
        case Kind.SCALE:
            return torch.where(region.fixed, 1.0, noise[region.groups].exp())
        case Kind.SIGN:
            return torch.where(region.fixed, 1.0, 2.0 * (region.groups % 2) - 1.0)
        case Kind.SHIFT:
            return torch.where(region.fixed, 0.0, noise[region.groups])
        case Kind.PERMUTATION:
            permutation = torch.arange(n)
            for cell in region.groups.unique():
                (members,) = torch.where(region.groups == cell)
                permutation[members] = members.roll(1)
            return permutation
        case Kind.ORTHOGONAL:
            return torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
        case _:
            return torch.randn(n, n, generator=generator, dtype=torch.float64) + 3 * torch.eye(n)


POSITIVE = {"log", "sqrt", "rsqrt"}  # what is not a number elsewhere


def op_of(graph: Graph) -> str:
    (node,) = graph.nodes
    return node.op


def check(source: str, seed: str, axes: tuple[int, ...], kind: Kind) -> bool:
    """Try one action; False if the law stops it."""
    generator = torch.Generator().manual_seed(0)
    graph = parse(source)
    for name, node in graph.params.items():
        value = torch.randn([int(s) for s in node.shape], generator=generator, dtype=torch.float64)
        graph.store[name] = value.abs() + 0.5 if name in ("v", "w") else value
    inputs = []
    for node in graph.inputs:
        shape = [int(s) for s in node.shape]
        if node.dtype.is_floating_point:
            value = torch.randn(shape, generator=generator, dtype=torch.float64)
            inputs.append(value.abs() + 0.1 if op_of(graph) in POSITIVE else value)
        else:
            inputs.append(torch.randint(0, 2, shape, generator=generator).to(node.dtype))
    before = execute(graph, inputs)
    region = transport(graph, graph[seed], kind, axes=axes, free=True)
    if not isinstance(region, Region):
        return False
    g = element(region, generator)
    moved = {
        node.name: transformed(kind, value, region.actions[node], g) if node in region.actions else value
        for node, value in zip(graph.inputs, inputs, strict=True)
    }
    wanted = [
        transformed(kind, value, region.actions[node], g) if node in region.actions else value
        for node, value in zip(graph.outputs, before, strict=True)
    ]
    if region.kind is Kind.PERMUTATION and torch.equal(g, torch.arange(region.size)):
        return False  # no two coordinates may be exchanged
    if bool(region.fixed.all()):
        return False
    untouched = torch.equal(wanted[0], before[0]) and all(
        torch.equal(moved[n.name], v) for n, v in zip(graph.inputs, inputs, strict=True)
    )
    assert not untouched, "the element did nothing: the test could not fail"
    apply(graph, region, g)
    after = execute(graph, [moved[node.name] for node in graph.inputs])
    torch.testing.assert_close(after, tuple(wanted), rtol=1e-10, atol=1e-10)
    return True


def tries(source: str) -> list[tuple[str, tuple[int, ...]]]:
    """The values of a graph with the axes to act on: the last, the channels of an image, whole heads' channels."""
    graph = parse(source)
    found = []
    for node in (*graph.inputs, *graph.nodes):
        if node.dtype.is_floating_point:
            found += [(node.name, (-1,)), (node.name, (1 - len(node.shape),))]
            if len(node.shape) == 4:
                found.append((node.name, (-3, -1)))
    return found


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
@pytest.mark.parametrize("op", LAWS)
def test_the_law_holds(op: str, kind: Kind) -> None:
    passed = [check(source, seed, axes, kind) for source in graphs(op) for seed, axes in tries(source)]
    assert any(passed) == OPS[op].law.passes(kind), "the law does not pass what it claims to, or passes more"
