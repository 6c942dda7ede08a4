"""Every law in the table, on random float64 numbers, against plain evaluation.

A case is a one-op graph. Each of its values in turn is acted on by a random element of each kind of
group; where the law lets it pass, the op with all the changes that the law asks for must give
exactly what the law says.
"""

from __future__ import annotations

import pytest
import torch

from regauge.ir import Graph, parse
from regauge.ir.gauge import Region, apply, random_element, transformed, transport
from regauge.ir.interpret import execute
from regauge.ir.laws import OPAQUE, Kind
from regauge.ir.ops import OPS

ATTRS = {
    "to": ", dtype=f64",
    "leaky_relu": ", negative_slope=0.1",
    "clamp": ", min=0.1",
    "softmax": ", dim=-1",
    "log_softmax": ", dim=-1",
}


def one(arguments: str, result: str, call: str) -> str:
    """A graph of one op."""
    return f"def graph({arguments}):\n    y: {result} = {call}\n    return y"


XZ = "x: f64[2, 3, 6], z: f64[2, 3, 6]"
X = "x: f64[2, 3, 6]"
SAME = "f64[2, 3, 6]"
GRAPHS: dict[str, list[str]] = {
    "linear": [
        one("x: f64[2, 3, 6], *, w: f64[4, 6], b: f64[4]", "f64[2, 3, 4]", "linear(x, w, b)"),
        one("x: f64[2, 3, 6], *, w: f64[4, 6]", "f64[2, 3, 4]", "linear(x, w)"),
        one("x: f64[2, 4, 3, 6], *, w: f64[5, 6], b: f64[5]", "f64[2, 4, 3, 5]", "linear(x, w, b)"),
    ],
    "matmul": [one("x: f64[2, 3, 6], z: f64[2, 6, 4]", "f64[2, 3, 4]", "matmul(x, z)")],
    "bmm": [one("x: f64[2, 3, 6], z: f64[2, 6, 4]", "f64[2, 3, 4]", "bmm(x, z)")],
    "grouped_mm": [
        one("x: f64[3, 6], o: i64[2], *, w: f64[2, 6, 4]", "f64[3, 4]", "grouped_mm(x, w, o)"),
    ],
    "scaled_dot_product_attention": [
        one(
            "q: f64[2, 4, 5, 6], k: f64[2, 4, 7, 6], v: f64[2, 4, 7, 3]",
            "f64[2, 4, 5, 3]",
            "scaled_dot_product_attention(q, k, v)",
        ),
        one(
            "q: f64[2, 4, 5, 6], k: f64[2, 2, 5, 6], v: f64[2, 2, 5, 3]",
            "f64[2, 4, 5, 3]",
            "scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)",
        ),
    ],
    "conv1d": [
        one("x: f64[2, 6, 9], *, w: f64[4, 6, 3], b: f64[4]", "f64[2, 4, 7]", "conv1d(x, w, b)"),
        one(
            "x: f64[2, 6, 9], *, w: f64[6, 2, 3], b: f64[6]",
            "f64[2, 6, 7]",
            "conv1d(x, w, b, groups=3)",
        ),
        one(
            "x: f64[2, 6, 9], *, w: f64[12, 1, 3], b: f64[12]",
            "f64[2, 12, 7]",
            "conv1d(x, w, b, groups=6)",
        ),
        one(
            "x: f64[2, 6, 9], *, w: f64[3, 2, 3], b: f64[3]",
            "f64[2, 3, 7]",
            "conv1d(x, w, b, groups=3)",
        ),
        one("x: f64[2, 6, 9], *, w: f64[4, 6, 1]", "f64[2, 4, 9]", "conv1d(x, w)"),
    ],
    "conv2d": [
        one(
            "x: f64[2, 6, 5, 5], *, w: f64[4, 3, 3, 3], b: f64[4]",
            "f64[2, 4, 5, 5]",
            "conv2d(x, w, b, padding=(1, 1), groups=2)",
        ),
        one(
            "x: f64[2, 6, 5, 5], *, w: f64[6, 1, 3, 3]", "f64[2, 6, 3, 3]", "conv2d(x, w, groups=6)"
        ),
        one(
            "x: f64[2, 6, 5, 5], *, w: f64[6, 1, 3, 1]",
            "f64[2, 6, 5, 5]",
            "conv2d(x, w, padding=(1, 0), groups=6)",
        ),
        one(
            "x: f64[2, 6, 5, 5], *, w: f64[4, 6, 3, 3], b: f64[4]",
            "f64[2, 4, 3, 3]",
            "conv2d(x, w, b)",
        ),
    ],
    "conv3d": [
        one(
            "x: f64[2, 6, 4, 4, 4], *, w: f64[4, 6, 2, 2, 2], b: f64[4]",
            "f64[2, 4, 3, 3, 3]",
            "conv3d(x, w, b)",
        ),
    ],
    **{
        f"conv_transpose{n}d": [
            one(
                f"x: f64[2, 6{', 4' * n}], *, w: f64[6, 4{', 3' * n}], b: f64[4]",
                f"f64[2, 4{', 9' * n}]",
                f"conv_transpose{n}d(x, w, b, stride=({'2, ' * n}))",
            )
        ]
        for n in (1, 2, 3)
    },
    **{
        f"{op}{n}d": [
            one(f"x: f64[2, 6{', 4' * n}]", f"f64[2, 6{size * n}]", f"{op}{n}d(x{attrs})")
        ]
        for n in (1, 2, 3)
        for op, size, attrs in (
            ("max_pool", ", 2", f", kernel_size=({'2, ' * n})"),
            ("avg_pool", ", 2", f", kernel_size=({'2, ' * n})"),
            ("adaptive_avg_pool", ", 2", f", output_size=({'2, ' * n})"),
            ("upsample_nearest", ", 8", f", output_size=({'8, ' * n}), scale_factors=None"),
        )
    },
    "avg_pool2d": [
        one("x: f64[2, 6, 4, 4]", "f64[2, 6, 2, 2]", "avg_pool2d(x, kernel_size=(2, 2))"),
        one(
            "x: f64[2, 6, 4, 5]",
            "f64[2, 6, 2, 5]",
            "avg_pool2d(x, kernel_size=(2, 1), stride=(2, 1), ceil_mode=True)",
        ),
    ],
    **{
        f"upsample_{kind}2d": [
            one(
                "x: f64[2, 6, 4, 4]",
                "f64[2, 6, 8, 4]",
                f"upsample_{kind}2d(x, output_size=(8, 4), align_corners=False, "
                "scale_factors=None)",
            ),
            one(
                "x: f64[2, 6, 4, 4]",
                "f64[2, 6, 8, 8]",
                f"upsample_{kind}2d(x, output_size=(8, 8), align_corners=False, "
                "scale_factors=None)",
            ),
        ]
        for kind in ("bilinear", "bicubic")
    },
    "embedding": [one("t: i64[2, 3], *, w: f64[3, 6]", SAME, "embedding(w, t)")],
    "layer_norm": [
        one(
            "x: f64[2, 3, 6], *, w: f64[6], b: f64[6]",
            SAME,
            "layer_norm(x, w, b, normalized_shape=(6,))",
        ),
    ],
    "rms_norm": [
        one(
            "x: f64[2, 4, 3, 6], *, w: f64[6]",
            "f64[2, 4, 3, 6]",
            "rms_norm(x, w, normalized_shape=(6,), eps=1e-06)",
        ),
        one(
            "x: f64[2, 3, 6], *, w: f64[6]",
            SAME,
            "rms_norm(x, w, normalized_shape=(6,), eps=1e-06)",
        ),
        one(X, SAME, "rms_norm(x, normalized_shape=(6,), eps=1e-06)"),
    ],
    "group_norm": [
        one(
            "x: f64[2, 6, 5], *, w: f64[6], b: f64[6]",
            "f64[2, 6, 5]",
            "group_norm(x, w, b, num_groups=2)",
        ),
        one("x: f64[2, 6, 5, 3]", "f64[2, 6, 5, 3]", "group_norm(x, None, None, num_groups=6)"),
        one(
            "x: f64[2, 6, 5], *, w: f64[6], b: f64[6]",
            "f64[2, 6, 5]",
            "group_norm(x, w, b, num_groups=1)",
        ),
    ],
    "_weight_norm": [
        one("x: f64[4, 6, 3], *, g: f64[1, 1, 3]", "f64[4, 6, 3]", "_weight_norm(x, g, dim=2)"),
        one("x: f64[4, 6, 3], *, g: f64[4, 1, 1]", "f64[4, 6, 3]", "_weight_norm(x, g, dim=0)"),
    ],
    "batch_norm": [
        one(
            "x: f64[2, 6, 5], *, w: f64[6], b: f64[6], m: f64[6], v: f64[6]",
            "f64[2, 6, 5]",
            "batch_norm(x, w, b, m, v, training=False, momentum=0.1, eps=1e-05, "
            "cudnn_enabled=False)",
        ),
    ],
    "add": [
        one(XZ, SAME, "add(x, z)"),
        one("x: f64[2, 3, 6], *, w: f64[6]", SAME, "add(x, w)"),
        one("x: f64[2, 3, 6], *, w: f64[1]", SAME, "add(x, w)"),
        one(X, SAME, "add(x, 1.0)"),
    ],
    "sub": [one(XZ, SAME, "sub(x, z)")],
    "rsub": [
        one(XZ, SAME, "rsub(x, z)"),
        one(X, SAME, "rsub(x, 1.0)"),
    ],
    "mul": [
        one(XZ, SAME, "mul(x, z)"),
        one("x: f64[2, 3, 6], z: f64[2, 3, 1]", SAME, "mul(x, z)"),
        one("x: f64[2, 4, 3, 6], z: f64[2, 4, 3, 1]", "f64[2, 4, 3, 6]", "mul(x, z)"),
        one("x: f64[2, 4, 3, 6], *, w: f64[6]", "f64[2, 4, 3, 6]", "mul(x, w)"),
        one("x: f64[2, 3, 6], *, w: f64[6]", SAME, "mul(x, w)"),
        one(X, SAME, "mul(x, 3.0)"),
        one(X, SAME, "mul(x, x)"),
    ],
    "div": [
        one(XZ, SAME, "div(x, z)"),
        one(X, SAME, "div(x, 3.0)"),
        one(X, SAME, "div(x, 3.0, rounding_mode='floor')"),
    ],
    **{op: [one(XZ, SAME, f"{op}(x, z)")] for op in ("maximum", "minimum")},
    "pow": [one("x: f64[2, 3, 6], z: f64[2, 3, 1]", SAME, "pow(x, z)"), one(X, SAME, "pow(x, 2)")],
    "softmax": [
        one(X, SAME, "softmax(x, dim=-1)"),
        one("x: f64[2, 4, 3, 6]", "f64[2, 4, 3, 6]", "softmax(x, dim=-1)"),
    ],
    "where": [
        one(
            "c: bool[2, 4, 3, 1], x: f64[2, 4, 3, 6], z: f64[2, 4, 3, 6]",
            "f64[2, 4, 3, 6]",
            "where(c, x, z)",
        ),
        one("c: bool[2, 3, 1], x: f64[2, 3, 6], z: f64[2, 3, 6]", SAME, "where(c, x, z)"),
    ],
    "masked_fill": [
        one("x: f64[2, 3, 6], c: bool[2, 3, 1]", SAME, "masked_fill(x, c, 0.0)"),
    ],
    "index": [
        one("x: f64[2, 3, 6], i: i64[5]", "f64[5, 3, 6]", "index(x, (i,))"),
        one("x: f64[2, 3, 6], i: i64[5], j: i64[5]", "f64[5, 6]", "index(x, (i, j))"),
        one("x: f64[2, 3, 6], i: i64[2, 1], j: i64[4]", "f64[2, 4, 3]", "index(x, (i, None, j))"),
        one("x: f64[2, 3, 6], i: i64[4]", "f64[2, 4, 6]", "index(x, (None, i))"),
        one("x: f64[2, 3, 6], m: bool[2, 3]", "f64[4, 6]", "index(x, (m,))"),
    ],
    "aten.masked_scatter.default": [
        one(
            "x: f64[2, 3, 6], m: bool[2, 3, 1], z: f64[7, 6]",
            SAME,
            "aten.masked_scatter.default(x, m, z)",
        ),
    ],
    "index_select": [
        one("x: f64[2, 3, 6], i: i64[5]", "f64[2, 5, 6]", "index_select(x, i, dim=1)"),
    ],
    "gather": [one("x: f64[2, 3, 6], i: i64[2, 2, 6]", "f64[2, 2, 6]", "gather(x, i, dim=1)")],
    "scatter": [
        one("x: f64[2, 3, 6], i: i64[2, 2, 6], z: f64[2, 2, 6]", SAME, "scatter(x, i, z, dim=1)"),
    ],
    "index_add": [
        one("x: f64[2, 3, 6], i: i64[5], z: f64[2, 5, 6]", SAME, "index_add(x, i, z, dim=1)"),
    ],
    "index_put": [
        one("x: f64[2, 3, 6], i: i64[1], z: f64[1, 3, 6]", SAME, "index_put(x, (i,), z)"),
        one("x: f64[2, 3, 6], i: i64[1], z: f64[6]", SAME, "index_put(x, (i,), z)"),
        one(
            "x: f64[2, 3, 6], i: i64[4], z: f64[4, 3, 6]",
            SAME,
            "index_put(x, (i,), z, accumulate=True)",
        ),
        one("x: f64[2, 3, 6], i: i64[1], j: i64[1], z: f64[1, 6]", SAME, "index_put(x, (i, j), z)"),
    ],
    "unfold": [
        one(X, "f64[2, 2, 6, 2]", "unfold(x, dimension=1, size=2, step=1)"),
    ],
    "fft_fftn": [one("x: f64[2, 3, 6]", "c128[2, 3, 6]", "fft_fftn(x, dim=(1,))")],
    "cumsum": [one(X, SAME, "cumsum(x, dim=1)")],
    **{
        op: [
            one(
                f"x: f64[3, 2, {n}], {', '.join(f'{s}: f64[2, 4]' for s in states)}, "
                f"*, u: f64[{n}, 4], b: f64[{n}]",
                "f64[2, 4]" if op == "lstm_last_cell" else "f64[3, 2, 4]",
                f"{op}(x, u, b, {', '.join(states)}, reverse={op == 'gru_states'})",
            )
        ]
        for op, n, states in (
            ("lstm_states", 16, "hc"),
            ("lstm_last_cell", 16, "hc"),
            ("gru_states", 12, "h"),
            ("rnn_tanh_states", 4, "h"),
            ("rnn_relu_states", 4, "h"),
        )
    },
    "constant_pad_nd": [one(X, "f64[2, 6, 6]", "constant_pad_nd(x, pad=(0, 0, 1, 2))")],
    "reshape": [
        one(X, "f64[2, 3, 2, 3]", "reshape(x, shape=(2, 3, 2, 3))"),
        one(X, "f64[6, 6]", "reshape(x, shape=(6, 6))"),
    ],
    "permute": [one(X, "f64[6, 2, 3]", "permute(x, dims=(2, 0, 1))")],
    "transpose": [one(X, "f64[2, 6, 3]", "transpose(x, dim0=1, dim1=2)")],
    "unsqueeze": [one(X, "f64[2, 3, 1, 6]", "unsqueeze(x, dim=2)")],
    "squeeze": [one("x: f64[2, 1, 6]", "f64[2, 6]", "squeeze(x, dim=1)")],
    "expand": [one("x: f64[2, 1, 6]", SAME, "expand(x, size=(2, 3, 6))")],
    "slice": [one(X, "f64[2, 3, 2]", "slice(x, dim=2, start=1, end=3)")],
    "select": [one(X, "f64[2, 6]", "select(x, dim=1, index=0)")],
    "cat": [
        one(XZ, "f64[2, 3, 12]", "cat((x, z), dim=-1)"),
        one(XZ, "f64[2, 6, 6]", "cat((x, z), dim=1)"),
    ],
    "stack": [one("x: f64[2, 6], z: f64[2, 6]", "f64[2, 2, 6]", "stack((x, z), dim=1)")],
    "flip": [one(X, SAME, "flip(x, dims=(2,))")],
    "roll": [one(X, SAME, "roll(x, shifts=(1,), dims=(2,))")],
    "repeat": [
        one("x: f64[2, 6]", "f64[2, 12]", "repeat(x, repeats=(1, 2))"),
        one("x: f64[2, 6]", "f64[4, 6]", "repeat(x, repeats=(2, 1))"),
    ],
    "repeat_interleave": [
        one("x: f64[2, 6]", "f64[2, 12]", "repeat_interleave(x, repeats=2, dim=1)"),
        one("x: f64[2, 6]", "f64[4, 6]", "repeat_interleave(x, repeats=2, dim=0)"),
    ],
    "pixel_shuffle": [
        one("x: f64[2, 8, 3, 3]", "f64[2, 2, 6, 6]", "pixel_shuffle(x, upscale_factor=2)"),
    ],
    "pixel_unshuffle": [
        one("x: f64[2, 2, 6, 6]", "f64[2, 8, 3, 3]", "pixel_unshuffle(x, downscale_factor=2)"),
    ],
    "linalg_vector_norm": [
        one(X, "f64[2, 6]", "linalg_vector_norm(x, ord=2.0, dim=(1,))"),
        one("x: f64[2, 4, 3, 6]", "f64[2, 4, 3]", "linalg_vector_norm(x, ord=2.0, dim=(-1,))"),
    ],
    "recode": [
        one("x: f64[2, 4, 3, 6], *, a: f64[5, 7, 4, 6]", "f64[2, 5, 3, 7]", "recode(x, a)"),
    ],
    "mean": [
        one("x: f64[2, 4, 3, 6]", "f64[2, 4, 3]", "mean(x, dim=(-1,))"),
        one(X, "f64[2, 6]", "mean(x, dim=(1,))"),
        one(X, "f64[2, 3, 1]", "mean(x, dim=(-1,), keepdim=True)"),
    ],
    "sum": [one(X, "f64[2, 6]", "sum(x, dim=(1,))")],
    "amax": [one(X, "f64[2, 6]", "amax(x, dim=(1,))")],
    "amin": [one(X, "f64[2, 1, 6]", "amin(x, dim=(1,), keepdim=True)")],
    "adaptive_avg_pool2d": [
        one("x: f64[2, 6, 4, 4]", "f64[2, 6, 1, 1]", "adaptive_avg_pool2d(x, output_size=(1, 1))"),
    ],
}


def graphs(op: str) -> list[str]:
    return GRAPHS.get(op) or [one(X, SAME, f"{op}(x{ATTRS.get(op, '')})")]


NOT_ALONE = (
    *("logical_not", "bitwise_not", "full", "zeros", "full_like", "zeros_like"),
    *("aten.split_with_sizes.default", "getitem"),
)
LAWS = [name for name, op in OPS.items() if op.law is not OPAQUE and name not in NOT_ALONE]


POSITIVE = {"log", "pow", "sqrt", "rsqrt"}  # what is not a number elsewhere


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
    g = random_element(region, generator)
    moved = {
        node.name: transformed(kind, value, region.actions[node], g)
        if node in region.actions
        else value
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
    """The values of a graph with axes to act on: the last, an image's channels, heads' channels."""
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
    passed = [
        check(source, seed, axes, kind) for source in graphs(op) for seed, axes in tries(source)
    ]
    assert any(passed) == OPS[op].law.passes(kind), (
        "the law does not pass what it claims to, or passes more"
    )


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
@pytest.mark.parametrize("number", [0.0, 1.0])
@pytest.mark.parametrize(
    "made", ["full(size=(2, 3, 6), fill_value={}, dtype=f64)", "full_like(x, fill_value={})"]
)
def test_one_number_everywhere(made: str, number: float, kind: Kind) -> None:
    """It is added to a value, whose action it must bear."""
    source = f"""
        def graph(x: f64[2, 3, 6]):
            c: f64[2, 3, 6] = {made.format(number)}
            y: f64[2, 3, 6] = add(x, c)
            return y
    """
    graph = parse(source)
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (before,) = execute(graph, [x])
    region = transport(graph, graph["x"], kind, free=True)
    passes = kind in (Kind.SHIFT, Kind.PERMUTATION) or number == 0
    assert isinstance(region, Region) == passes
    if isinstance(region, Region):
        element = random_element(region, torch.Generator().manual_seed(1))
        moved = transformed(kind, x, region.actions[graph["x"]], element)
        (after,) = execute(graph, [moved])
        torch.testing.assert_close(
            after, transformed(kind, before, region.actions[graph["y"]], element)
        )
