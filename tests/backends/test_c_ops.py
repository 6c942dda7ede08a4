"""The ops of C for microcontrollers: on codes as ONNX Runtime has them, on floats as PyTorch."""

from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch
from graphs import feed

from regauge.backends import onnxruntime
from regauge.backends.c import lower
from regauge.backends.profiles import TARGETS
from regauge.ir import Graph
from regauge.ir.interpret import execute

Make: TypeAlias = Callable[..., Graph]

pytestmark = pytest.mark.skipif(not TARGETS["c"].installed, reason="there is no C compiler")

# All pairs of codes, of two scales, and a third for what is made of them.
HEAD = (
    "p: u8[1, 8, 64, 128], q: u8[1, 8, 64, 128], *, s: f32[], z: u8[], t: f32[], w: u8[], "
    "r: f32[], v: u8[]"
)
NUMBERS = (0.0517, 131, 0.0289, 94, 0.0333, 117)


def between(graph_of: Make, *lines: str) -> Graph:
    """A graph from codes of two values to those of one, ``y``."""
    graph = graph_of(
        HEAD,
        "a = dequantize(p, s, z)",
        "b = dequantize(q, t, w)",
        *lines,
        "k = quantize(y, r, v, dtype=u8)",
    )
    for name, number in zip("sztwrv", NUMBERS, strict=True):
        if name in graph.params:
            graph.store[name] = torch.tensor(number).to(graph.store.type(name).dtype)
    return graph


def pairs() -> list[torch.Tensor]:
    codes = torch.arange(65536).reshape(1, 8, 64, 128)
    return [(codes % 256).to(torch.uint8), (codes // 256).to(torch.uint8)]


def kernels(model: str) -> set[str]:
    """What the model's function calls."""
    body = model.split("int model_run(")[1]
    return {line.split("(")[0].strip() for line in body.splitlines() if line.startswith("    ")}


# Of one code, of codes that move, and of both.
TABLES = [
    ("y = sigmoid(a)",),
    ("y = tanh(a)",),
    ("y = leaky_relu(a, negative_slope=0.1)",),
    ("y = gelu(a)",),
    ("y = elu(a)",),
    ("y = relu6(a)",),
    ("c = sigmoid(a)", "y = mul(a, c)"),
    ("c = add(a, 3.0)", "d = relu6(c)", "e = mul(a, d)", "y = div(e, 6.0)"),
    ("c = abs(a)", "d = add(c, 1)", "y = div(a, d)"),
]
MOVES = [
    ("y = cat((a, b), dim=1)",),
    ("c = sigmoid(a)", "y = cat((c, b, a), dim=1)"),
    ("y = slice(a, dim=1, start=2, end=7)",),
    ("y = slice(a, dim=3, start=3, end=90, step=3)",),
    ("y = permute(a, dims=(0, 2, 3, 1))",),
    ("y = flip(a, dims=(2, 3))",),
    ("y = constant_pad_nd(a, pad=(1, 2, 0, 1), value=-0.7)",),
    ("y = upsample_nearest2d(a, output_size=None, scale_factors=(2.0, 2.0))",),
    ("c = pixel_shuffle(a, upscale_factor=2)", "y = silu(c)"),
    ("c = slice(a, dim=1, start=0, end=4)", "d = slice(a, dim=1, start=4, end=8)",
     "e = cat((d, c), dim=1)", "y = hardswish(e)"),
    ("c = max_pool2d(a, kernel_size=2, stride=2)", "y = cat((c, c), dim=3)"),
    ("c = max_pool2d(a, kernel_size=3, stride=2, padding=1)", "d = leaky_relu(c)",
     "y = slice(d, dim=1, start=1, end=5)"),
]  # fmt: skip


@pytest.mark.parametrize("lines", [*TABLES, *MOVES], ids=lambda lines: lines[-1][4:])
def test_codes_of_codes_need_no_floats(lines: tuple[str, ...], graph_of: Make) -> None:
    graph = between(graph_of, *lines)
    runner = lower(graph)
    assert not any("f32" in name or "quantize" in name for name in kernels(runner.model))
    (found,) = runner(pairs())
    (same,), (meant,) = onnxruntime.lower(graph, threads=1)(pairs()), execute(graph, pairs())
    assert torch.equal(found, meant) and torch.equal(found, same) and len(found.unique()) > 3


@pytest.mark.parametrize("lines", [("y = maximum(a, b)",), ("y = div(a, b)",), ("y = sub(a, b)",)])
def test_what_has_no_kernel_in_codes_is_computed_in_floats(
    lines: tuple[str, ...], graph_of: Make
) -> None:
    graph = between(graph_of, *lines)
    (found,), (meant,) = lower(graph)(pairs()), execute(graph, pairs())
    assert torch.equal(found, meant)


@pytest.mark.parametrize(
    "numbers",
    [
        NUMBERS,
        # With these, a zero point that is added after rounding gives some other codes.
        (0.04302016, 30, 0.0170215, 189, 0.0424113, 181),
        (0.03662131, 84, 0.0418391, 5, 0.0126733, 77),
    ],
)
def test_products_of_all_pairs_of_codes(numbers: tuple[float, ...], graph_of: Make) -> None:
    graph = between(graph_of, "y = mul(a, b)")
    for name, number in zip("sztwrv", numbers, strict=True):
        graph.store[name] = torch.tensor(number).to(graph.store.type(name).dtype)
    runner = lower(graph)
    assert kernels(runner.model) & {"mul_u8", "mul_f32"} == {"mul_u8"}
    (found,), (same,) = runner(pairs()), onnxruntime.lower(graph, threads=1)(pairs())
    assert torch.equal(found, same)
    assert (found.int() - execute(graph, pairs())[0].int()).abs().max() <= 1


@pytest.mark.parametrize("op", ["add", "mul"])
@pytest.mark.parametrize("shape", ["1, 6, 1, 1", "1, 1, 9, 8", "1, 6, 9, 1", "6, 1, 8"])
@pytest.mark.parametrize("last", [False, True])
def test_codes_that_are_repeated(op: str, shape: str, last: bool, graph_of: Make) -> None:
    graph = graph_of(
        f"p: u8[1, 6, 9, 8], q: u8[{shape}], *, s: f32[], z: u8[], t: f32[], w: u8[], r: f32[], "
        "v: u8[]",
        "a = dequantize(p, s, z)",
        "g = max_pool2d(a, kernel_size=1)" if last else "g = clone(a)",
        "h = quantize(g, s, z, dtype=u8)",
        "i = dequantize(h, s, z)",
        "b = dequantize(q, t, w)",
        f"y = {op}(b, i)",
        "k = quantize(y, r, v, dtype=u8)",
    )
    for name, number in zip("sztwrv", NUMBERS, strict=True):
        graph.store[name] = torch.tensor(number).to(graph.store.type(name).dtype)
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randint(0, 256, node.shape, generator=generator).to(torch.uint8)  # type: ignore[arg-type]
        for node in graph.inputs
    ]
    (found,), (same,) = (TARGETS[t].lower(graph)(inputs) for t in ("c", "onnxruntime"))
    assert torch.equal(found, same) and len(found.unique()) > 3


FLOATS = [
    *(f"y = {op}(x)" for op in (
        "neg", "abs", "reciprocal", "exp", "sin", "cos", "erf", "floor", "round", "tanh", "sigmoid",
        "silu", "mish", "softplus", "hardsigmoid", "hardswish", "leaky_relu", "elu", "gelu",
        "aten.selu.default", "aten.celu.default", "aten.log_sigmoid.default", "aten.sign.default",
        "aten.hardshrink.default", "aten.softshrink.default",
    )),
    "y = gelu(x, approximate='tanh')",
    "y = softplus(x, beta=2.0, threshold=3.0)",
    "y = leaky_relu(x, negative_slope=0.3)",
    "y = elu(x, alpha=0.3)",
    "a = abs(x); b = sqrt(a); c = rsqrt(a); d = log(a); e = add(b, c); y = add(d, e)",
    "y = pow(x, 2)",
    "a = abs(x); y = pow(a, 0.7)",
    "y = sub(x, c)",
    "y = sub(c, x)",
    "y = div(x, d)",
    "y = maximum(x, d)",
    "y = minimum(d, x)",
    "y = mul(d, c)",
    "y = aten.prelu.default(x, e)",
    "y = aten.pad.default(x, pad=(1, 2, 2, 1), mode='reflect')",
    "y = aten.channel_shuffle.default(x, groups=2)",
    "y = cat((x, x), dim=2)",
    "a = upsample_nearest2d(x, output_size=(13, 29), scale_factors=None); y = relu(a)",
    "a = reshape(x, shape=(1, 2, 3, 5, 8)); b = transpose(a, dim0=1, dim1=2); "
    "y = reshape(b, shape=(1, 6, 5, 8))",
    "a = reshape(x, shape=(1, 240)); y = slice(a, dim=1, start=3, end=99)",
    "a = stack((x, x), dim=1); y = roll(a, shifts=(1,), dims=(3,))",
    "y = constant_pad_nd(x, pad=(1, 2, 0, 1), value=-0.7)",
    "a = expand(d, size=(1, 6, 5, 8)); y = add(a, x)",
    "y = permute(x, dims=(0, 2, 3, 1))",
]  # fmt: skip


@pytest.mark.parametrize("last", [False, True], ids=["", "channels last"])
@pytest.mark.parametrize("lines", FLOATS)
def test_floats(lines: str, last: bool, graph_of: Make) -> None:
    head = "g: f32[1, 6, 5, 8], *, c: f32[6, 1, 1], d: f32[1, 6, 1, 8], e: f32[6]"
    first = "x = max_pool2d(g, kernel_size=1)" if last else "x = add(g, 0.0)"
    graph = graph_of(head, first, *lines.split("; "))
    inputs = feed(graph)
    (found,), (meant,) = lower(graph)(inputs), execute(graph, inputs)
    torch.testing.assert_close(found, meant, rtol=2e-6, atol=2e-6)


def test_bytes_of_an_image(graph_of: Make) -> None:
    graph = graph_of("x: u8[1, 4, 4, 3]", "a = permute(x, dims=(0, 3, 1, 2))",
                     "b = to(a, dtype=f32)", "y = div(b, 255)")  # fmt: skip
    x = torch.arange(48, dtype=torch.uint8).reshape(1, 4, 4, 3) * 5
    (found,) = lower(graph)([x])
    assert torch.equal(found, x.permute(0, 3, 1, 2).float() / 255)


def test_images_with_channels_last_are_read_as_they_lie(graph_of: Make) -> None:
    head = "x: f32[1, 8, 9, 3], *, w: f32[4, 3, 1, 1]"
    graph = graph_of(head, "a = permute(x, dims=(0, 3, 1, 2))", "c = conv2d(a, w)",
                     "y = permute(c, dims=(0, 2, 3, 1))")  # fmt: skip
    runner, inputs = lower(graph), feed(graph)
    assert "copy_f32" not in runner.model
    torch.testing.assert_close(runner(inputs)[0], execute(graph, inputs)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "clip", ["relu(c)", "relu6(c)", "hardtanh(c, min_val=-0.5, max_val=0.7)", "clamp(c, min=-0.3)"]
)
def test_what_is_clipped_is_rounded_before(clip: str, graph_of: Make) -> None:
    """Codes that something else shares need not begin at zero."""
    graph = graph_of(
        "q: u8[1, 3, 6, 6], *, s: f32[], z: u8[], w: i8[4, 3, 3, 3], t: f32[4, 1, 1, 1], "
        "b: f32[4], r: f32[], v: u8[]",
        "x = dequantize(q, s, z)", "k = dequantize(w, t)", "c = conv2d(x, k, b)",
        f"a = {clip}", "y = quantize(a, r, v, dtype=u8)",
    )  # fmt: skip
    for name, number in {"s": 0.02, "z": 120, "r": 0.013, "v": 99}.items():
        graph.store[name] = torch.tensor(number).to(graph.store.type(name).dtype)
    graph.store["t"] = torch.full((4, 1, 1, 1), 4e-5)
    graph.store["b"] = graph.store["b"] / 8
    runner, inputs = lower(graph), feed(graph)
    assert not any("f32" in name or "quantize" in name for name in kernels(runner.model))
    (found,) = runner(inputs)
    assert torch.equal(found, execute(graph, inputs)[0]) and len(found.unique()) > 3
