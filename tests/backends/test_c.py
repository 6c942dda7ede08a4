"""C for microcontrollers, built here: its codes are those of ONNX Runtime, bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
import torch

from regauge.backends import onnxruntime
from regauge.backends.profiles import TARGETS
from regauge.ir import Graph, TargetError, parse
from regauge.ir.interpret import execute

Make: TypeAlias = Callable[..., Graph]
Feed: TypeAlias = Callable[..., list[torch.Tensor]]

pytestmark = pytest.mark.skipif(not TARGETS["c"].installed, reason="there is no C compiler")


@pytest.fixture
def check(inputs_of: Feed) -> Callable[[Graph], tuple[torch.Tensor, ...]]:
    """Codes as ONNX Runtime has them and within one of the interpreter's, floats to 1e-6."""

    def run(graph: Graph) -> tuple[torch.Tensor, ...]:
        inputs = inputs_of(graph)
        found = TARGETS["c"].lower(graph)(inputs)
        runtime = onnxruntime.lower(graph, threads=1)(inputs)
        for value, same, meant in zip(found, runtime, execute(graph, inputs), strict=True):
            assert value.dtype == meant.dtype
            if value.is_floating_point():
                torch.testing.assert_close(value, same, rtol=1e-6, atol=2e-6)
                torch.testing.assert_close(value, meant, rtol=1e-6, atol=2e-6)
            else:
                torch.testing.assert_close(value, same, rtol=0, atol=0)
                torch.testing.assert_close(value.int(), meant.int(), rtol=0, atol=1)
                assert len(value.unique()) > 3  # not all saturated
        return found

    return run


Check: TypeAlias = Callable[[Graph], tuple[torch.Tensor, ...]]


def conv(
    attrs: str, shape: str, weight: str, bias: bool = True, op: str = "conv2d"
) -> tuple[str, ...]:
    """A convolution between codes as a text: head and lines."""
    outputs = weight.split(",")[0]
    ones = ", 1" * weight.count(",")
    return (
        f"x: f32[{shape}], *, scale: f32[], z: u8[], w: i8[{weight}], "
        f"w_scale: f32[{outputs}{ones}], c: f32[{outputs}], r_scale: f32[], zero: u8[]",
        "q = quantize(x, scale, z, dtype=u8)",
        "xd = dequantize(q, scale, z)",
        "wd = dequantize(w, w_scale)",
        f"y = {op}(xd, wd{', c' if bias else ''}{', ' if attrs else ''}{attrs})",
        "k = quantize(y, r_scale, zero, dtype=u8)",
    )


def levelled(graph: Graph, result: float, zeros: tuple[int, int] = (117, 121)) -> Graph:
    """The graph with scales and zero points by which hardly any code saturates."""
    graph.store["scale"], graph.store["r_scale"] = torch.tensor(0.027), torch.tensor(result)
    graph.store["z"], graph.store["zero"] = (torch.tensor(z, dtype=torch.uint8) for z in zeros)
    return graph


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(conv("padding=(1, 1)", "2, 4, 9, 8", "6, 4, 3, 3"), id="padded"),
        pytest.param(conv("", "1, 4, 9, 8", "6, 4, 3, 3", bias=False), id="without bias"),
        pytest.param(conv("stride=(2, 3), padding=(2, 0)", "1, 4, 9, 8", "6, 4, 3, 3"), id="steps"),
        pytest.param(conv("dilation=(2, 1)", "1, 4, 9, 8", "6, 4, 3, 3"), id="dilated"),
        pytest.param(conv("groups=2, padding=(1, 1)", "2, 4, 9, 8", "6, 2, 3, 3"), id="grouped"),
        pytest.param(conv("groups=4, padding=(1, 1)", "2, 4, 9, 8", "4, 1, 3, 3"), id="depthwise"),
        pytest.param(conv("groups=4, padding=(1, 1)", "2, 4, 9, 8", "8, 1, 3, 3"), id="two each"),
        pytest.param(conv("padding='same'", "2, 4, 9, 8", "5, 4, 4, 3"), id="same size"),
        pytest.param(conv("", "2, 4, 9, 8", "5, 4, 1, 1"), id="pointwise"),
        pytest.param(conv("padding=(1,)", "2, 4, 9", "6, 4, 3", op="conv1d"), id="one axis"),
    ],
)  # fmt: skip
def test_convolutions_between_codes(words: tuple[str, ...], graph_of: Make, check: Check) -> None:
    check(levelled(graph_of(*words), 0.7))


def test_zeros_around_an_image_and_a_clip_are_part_of_the_convolution(
    graph_of: Make, check: Check
) -> None:
    head, *body, last = conv("padding=(1, 0)", "1, 4, 9, 8", "6, 4, 3, 3")
    body = ["p = constant_pad_nd(x, pad=(0, 1, 2, 0))", body[0].replace("(x,", "(p,"), *body[1:]]
    graph = graph_of(head, *body, "a = relu(y)", last.replace("(y,", "(a,"))
    check(levelled(graph, 0.3, (117, 0)))


SUM = (
    "p: u8[65536], q: u8[65536], *, scale: f32[], z: u8[], y_scale: f32[], yz: u8[], "
    "r_scale: f32[], zero: u8[]",
    "a = dequantize(p, scale, z)",
    "b = dequantize(q, y_scale, yz)",
    "s = add(a, b)",
    "k = quantize(s, r_scale, zero, dtype=u8)",
)


@pytest.mark.parametrize(
    "numbers",
    [
        # With these, some pair of codes tells every other order of the products from this one.
        (0.054778292775154114, 136, 0.04276878386735916, 124, 0.1538814753293991, 168),
        (0.08192038536071777, 166, 0.027758289128541946, 98, 0.17338338494300842, 58),
        (0.02, 0, 0.03, 0, 0.05, 0),
    ],
)
def test_sums_of_all_pairs_of_codes(numbers: tuple[float, ...], graph_of: Make) -> None:
    graph = graph_of(*SUM)
    for name, number in zip(graph.params, numbers, strict=True):
        graph.store[name] = torch.tensor(number).to(graph.store.type(name).dtype)
    codes = torch.arange(65536)
    pair = [(codes % 256).to(torch.uint8), (codes // 256).to(torch.uint8)]
    found, same = (run.lower(graph)(pair)[0] for run in (TARGETS["c"], TARGETS["onnxruntime"]))
    assert torch.equal(found, same)
    assert (found.int() - execute(graph, pair)[0].int()).abs().max() <= 1


def test_codes_of_a_million_floats(graph_of: Make) -> None:
    head = "x: f32[1000000], *, scale: f32[], z: u8[]"
    graph = graph_of(head, "k = quantize(x, scale, z, dtype=u8)")
    graph.store["scale"], graph.store["z"] = torch.tensor(0.0137), torch.tensor(117).byte()
    x = torch.randn(1000000, generator=torch.Generator().manual_seed(0))
    x[:512] = (torch.arange(512) - 256) * graph.store["scale"] / 2  # halves among them
    (found,) = TARGETS["c"].lower(graph)([x])
    for same in (onnxruntime.lower(graph)([x])[0], execute(graph, [x])[0]):
        assert torch.equal(found, same)


@pytest.mark.parametrize(
    "attrs",
    [
        "kernel_size=(2, 2), stride=(2, 2)",
        "kernel_size=3, padding=1",
        "kernel_size=3, stride=2, ceil_mode=True, dilation=(1, 2)",
    ],
)
def test_maxima_of_codes(attrs: str, graph_of: Make, check: Check) -> None:
    graph = graph_of(
        "x: f32[2, 4, 9, 9], *, scale: f32[], z: u8[], r_scale: f32[], zero: u8[]",
        "p = quantize(x, scale, z, dtype=u8)",
        "a = dequantize(p, scale, z)",
        f"m = max_pool2d(a, {attrs})",
        "k = quantize(m, r_scale, zero, dtype=u8)",
    )
    check(levelled(graph, 0.027, (117, 117)))


def test_maxima_along_one_axis(graph_of: Make, check: Check) -> None:
    graph = graph_of(
        "x: f32[2, 4, 9], *, scale: f32[], z: u8[], r_scale: f32[], zero: u8[]",
        "p = quantize(x, scale, z, dtype=u8)",
        "a = dequantize(p, scale, z)",
        "m = max_pool1d(a, kernel_size=(3,), stride=(2,), padding=(1,))",
        "k = quantize(m, r_scale, zero, dtype=u8)",
    )
    check(levelled(graph, 0.027, (117, 117)))


@pytest.mark.parametrize("code", ["u8", "i8"])
@pytest.mark.parametrize("shape", ["2, 40", "2, 3, 40"])
def test_linear_layers_on_codes(code: str, shape: str, graph_of: Make, check: Check) -> None:
    graph = graph_of(
        f"x: f32[{shape}], *, scale: f32[], z: {code}[], w: i8[7, 40], w_scale: f32[7, 1], "
        "c: f32[7]",
        f"q = quantize(x, scale, z, dtype={code})",
        "xd = dequantize(q, scale, z)",
        "wd = dequantize(w, w_scale)",
        "y = linear(xd, wd, c)",
    )
    graph.store["scale"] = torch.tensor(0.027)
    graph.store["w_scale"] = graph.store["w_scale"] * 0.05  # sums near 1, as the tolerance has it
    check(graph)


@pytest.mark.parametrize(
    "words",
    [
        ("x: f32[2, 4, 9, 8], *, w: f32[6, 2, 3, 3], c: f32[6]",
         "y = conv2d(x, w, c, stride=(2, 1), padding=(1, 2), groups=2)"),
        ("x: f32[2, 4, 9], *, w: f32[6, 4, 3]", "y = conv1d(x, w, dilation=(2,))"),
        ("x: f32[2, 3, 40], *, w: f32[6, 40], c: f32[6]", "y = linear(x, w, c)"),
        ("x: f32[2, 3, 4], y: f32[2, 3, 4]", "z = add(x, y)", "r = relu(z)"),
        ("x: f32[2, 3, 4], *, c: f32[3, 1]", "z = mul(c, x)"),
        ("x: f32[2, 3, 4]", "z = add(x, 0.3)", "r = clamp(z, min=-0.5)"),
        ("x: f32[1, 3, 4, 5], y: f32[1, 3, 1, 1]", "p = max_pool2d(x, kernel_size=2, stride=1)",
         "z = mul(p, y)", "r = hardtanh(z)"),
        ("x: f32[2, 3, 4, 5], *, c: f32[3, 3, 4]", "p = max_pool2d(x, kernel_size=2, stride=1)",
         "z = add(p, c)", "r = relu6(z)"),
        ("x: f32[2, 3, 4, 5]", "p = max_pool2d(x, kernel_size=2)", "z = mean(p, dim=(2, 3))"),
        ("x: f32[2, 3, 4, 5]", "z = mean(x, dim=(-1,), keepdim=True)"),
        ("x: f32[2, 3, 4, 5]", "z = mean(x)"),
        ("x: f32[2, 3, 4, 6]", "z = adaptive_avg_pool2d(x, output_size=(2, 3))"),
        ("x: f32[2, 3, 4, 6]", "z = adaptive_avg_pool2d(x, output_size=(1, 1))",
         "r = reshape(z, shape=(2, 3))"),
        ("x: f32[2, 3, 5, 6]", "z = avg_pool2d(x, kernel_size=(3, 2), stride=2, padding=1)"),
        ("x: f32[2, 3, 5, 6]",
         "z = avg_pool2d(x, kernel_size=3, stride=2, padding=1, count_include_pad=False)"),
        ("x: f32[2, 3, 4, 6]", "p = max_pool2d(x, kernel_size=2)", "r = reshape(p, shape=(2, 18))",
         "s = softmax(r, dim=-1)"),
        ("x: f32[2, 3, 4, 6], *, c: f32[2, 3, 4, 6]", "z = add(x, x)", "r = relu(z)",
         "m = mul(r, z)", "n = add(m, c)"),
        ("x: f32[2, 6], *, scale: f32[], z: u8[]", "q = quantize(x, scale, z, dtype=u8)",
         "d = dequantize(q, scale, z)"),
        ("x: f32[2, 6, 4, 4], *, scale: f32[], z: u8[]", "q = quantize(x, scale, z, dtype=u8)",
         "d = dequantize(q, scale, z)", "m = mean(d, dim=(2, 3))"),
        ("x: f32[2, 6, 4, 4], *, scale: f32[], z: u8[]", "q = quantize(x, scale, z, dtype=u8)",
         "d = dequantize(q, scale, z)", "m = adaptive_avg_pool2d(d, output_size=(2, 1))"),
    ],
    ids=lambda words: words[-1].split("= ")[1].split("(")[0],
)  # fmt: skip
def test_floats(words: tuple[str, ...], graph_of: Make, check: Check) -> None:
    check(graph_of(*words))


def test_inputs_constants_and_one_value_twice_can_be_outputs(graph_of: Make) -> None:
    graph = graph_of("x: f32[2, 3], *, c: f32[2]", "y = relu(x)")
    graph.returns(graph["y"], graph["x"], graph["c"], graph["y"], 7)
    (x,) = given = [torch.randn(2, 3, generator=torch.Generator().manual_seed(0))]
    y, same, c, again, seven = TARGETS["c"].lower(graph)(given)
    assert torch.equal(y, torch.relu(x)) and torch.equal(same, x) and torch.equal(again, y)
    assert torch.equal(c, graph.store["c"]) and seven == 7


def test_names_that_c_keeps_to_itself(graph_of: Make) -> None:
    graph = graph_of("short: f32[2, 3]", "clamp_f32 = relu(short)", "arena = add(clamp_f32, 1.0)")
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(TARGETS["c"].lower(graph)([x])[0], torch.relu(x) + 1)


HELP = "write it in another form, or choose target='onnxruntime'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def graph(x: f32[n, 3]):\n    y: f32[n, 3] = relu(x)\n    return y",
         "target 'c' needs every size as a number, and x is f32[n, 3]\n  at  x: f32[n, 3]\n"
         "  do  trace without dynamic_shapes, with an example as large as what shall run"),
        ("def graph(x: f64[2, 3]):\n    y: f64[2, 3] = relu(x)\n    return y",
         "target 'c' computes in float32, uint8 and int8, and x is f64[2, 3]\n  at  x: f64[2, 3]\n"
         "  do  give the model and its inputs as float32: model.float(), x.float()"),
        ("def graph(x: f32[2, 3]):\n    y: f32[2, 3] = cumsum(x, dim=1)\n    return y",
         "target 'c' has no kernel for cumsum\n  at  y: f32[2, 3] = cumsum(x, dim=1)\n"
         "  do  write it with other PyTorch functions, or choose target='onnxruntime'"),
        ("def graph(x: f32[2, 3]):\n    y = dynamic_quantize(x)\n    z = getitem(y, 0)\n"
         "    return z",
         "target 'c' has no kernel for dynamic_quantize\n"
         "  at  y: (u8[2, 3], f32[2, 1], u8[2, 1]) = dynamic_quantize(x)\n"
         "  do  choose static scales, such as passes='w8a8'"),
        ("def graph(x: f32[2, 3], w: f32[4, 3]):\n    y = linear(x, w)\n    return y",
         "target 'c' takes a weight only as a constant, and that of y is computed\n"
         "  at  y: f32[2, 4] = linear(x, w)\n"
         "  do  choose static scales, such as passes='w8a8', or target='onnxruntime'"),
        ("def graph(x: f32[2, 3], y: f32[2, 3]):\n    z = add(x, y, alpha=2)\n    return z",
         "target 'c' has no kernel for add with alpha\n  at  z: f32[2, 3] = add(x, y, alpha=2)\n"
         f"  do  {HELP}"),
        ("def graph(x: f32[3, 4, 4]):\n    y = max_pool2d(x, kernel_size=2)\n    return y",
         "target 'c' has no kernel for max_pool2d of a value with 3 axes\n"
         "  at  y: f32[3, 2, 2] = max_pool2d(x, kernel_size=2)\n"
         "  do  give it a batch of images, [N, C, H, W], or of rows, [N, C, L]"),
    ],
)  # fmt: skip
def test_what_has_no_kernel_is_an_error(text: str, message: str) -> None:
    with pytest.raises(TargetError) as error:
        TARGETS["c"].lower(parse(text))
    assert str(error.value) == message


def test_sums_that_leave_32_bits_are_an_error(graph_of: Make) -> None:
    head, *body = conv("", "1, 4, 3, 3", "6, 4, 3, 3")
    graph = levelled(graph_of(head, *body), 0.7)
    graph.store["c"] = torch.full((6,), 1e9)
    with pytest.raises(TargetError, match=r"sums of k may reach 2\d{9}, more than 32 bits hold"):
        TARGETS["c"].lower(graph)


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TargetError) as error:
        TARGETS["c"].check_installed()
    assert str(error.value) == (
        "target 'c' needs one of the programs cc, gcc, clang, and finds none\n"
        "  do  apt-get install gcc libc6-dev"
    )


def test_a_compiler_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'model.c:1: error: no such thing' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    graph = parse("def graph(x: f32[2, 3]):\n    y = relu(x)\n    return y")
    with pytest.raises(TargetError) as error:
        TARGETS["c"].lower(graph)
    assert str(error.value) == (
        f"{broken} does not build the model: model.c:1: error: no such thing\n"
        "  do  check that it builds C99 with <math.h>: apt-get install libc6-dev"
    )
