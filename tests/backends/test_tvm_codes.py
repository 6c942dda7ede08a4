"""Products of codes in TVM: in whole numbers, and what the interpreter computes."""

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import torch

from regauge.backends.profiles import target
from regauge.backends.tvm.emit import emit
from regauge.backends.tvm.processor import has_dots, host
from regauge.backends.tvm.runner import lower
from regauge.ir import Graph, TargetError
from regauge.ir.interpret import execute
from regauge.passes import Context, Quantize

pytest.importorskip("tvm")

Make: TypeAlias = Callable[..., Graph]
Feed: TypeAlias = Callable[..., list[torch.Tensor]]

LAYERS = (
    "i: i64[n, t], *, e: f32[50, 64], w: f32[96, 64], c: f32[96], u: f32[32, 96], v: f32[32, 32]",
    "x: f32[n, t, 64] = embedding(e, i)",
    "a: f32[n, t, 96] = linear(x, w, c)",
    "s: f32[n, t, 96] = silu(a)",
    "b: f32[n, t, 32] = linear(s, u)",
    "m: f32[n, t, 32] = rms_norm(b, normalized_shape=(32,))",
    "y: f32[n, t, 32] = linear(m, v)",
)


def kernels(graph: Graph) -> Counter[str]:
    """How often each kind of function is in the module, or op of Relax is called."""
    text = str(emit(graph).module)
    names = ("linear_weights", "linear_blocks", "embedding_codes", "conv_codes")
    found = {name: text.count(f"R.call_tir(cls.{name}") for name in names}
    return Counter({**found, 'out_dtype="int32"': text.count('out_dtype="int32"')})


@pytest.mark.parametrize(
    "how",
    [
        ("static",), ("dynamic",), ("dynamic-tensor",), (None,), (None, "int4-g32-asym"),
        (None, "int2-g16"), (None, "int3-g32"), (None, "int8-g32"), ("dynamic", "int4-g32"),
    ],
    ids=str,
)  # fmt: skip
def test_quantized_layers(how: tuple[Any, ...], graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(*LAYERS)
    inputs = inputs_of(graph)
    context = Context(inputs=inputs, calibration=[inputs])
    new = Quantize(*how, least=0).attempt(graph, context)[0]
    runner = target("tvm").lower(new)
    for sizes in ({}, {"n": 1, "t": 7}):
        inputs = inputs_of(graph, **sizes)
        (found,), (wanted,) = runner(inputs), execute(new, inputs)
        assert float((found - wanted).norm() / wanted.norm()) < 1e-6


@pytest.mark.parametrize(
    ("how", "kind", "count"),
    [
        (("static",), 'out_dtype="int32"', 3),
        (("dynamic",), 'out_dtype="int32"', 3),
        ((None,), "linear_weights", 3),
        ((None, "int4-g32-asym"), "linear_blocks", 3),
        ((None,), "embedding_codes", 1),
        ((None, "int4-g32-asym"), "embedding_codes", 1),
    ],
)
def test_codes_are_read_as_codes(
    how: tuple[Any, ...], kind: str, count: int, graph_of: Make, inputs_of: Feed
) -> None:
    graph = graph_of(*LAYERS)
    inputs = inputs_of(graph)
    context = Context(inputs=inputs, calibration=[inputs])
    new = Quantize(*how, least=0).attempt(graph, context)[0]
    assert kernels(new)[kind] == count
    floats = [name for name, value in emit(new).weights.items() if value.numel() > 1000
              and value.is_floating_point()]  # fmt: skip
    assert floats == []


CONVS = {
    "padded": ("conv2d", "padding=(1, 1)", "2, 4, 9, 8", "6, 4, 3, 3"),
    "steps": ("conv2d", "stride=(2, 3), padding=(2, 0)", "1, 4, 9, 8", "6, 4, 3, 3"),
    "dilated": ("conv2d", "dilation=(2, 1)", "1, 4, 9, 8", "6, 4, 3, 3"),
    "grouped": ("conv2d", "groups=2, padding=(1, 1)", "2, 4, 9, 8", "6, 2, 3, 3"),
    "depthwise": ("conv2d", "groups=4, padding=(1, 1)", "2, 4, 9, 8", "4, 1, 3, 3"),
    "same size": ("conv2d", "padding='same'", "2, 4, 9, 8", "5, 4, 4, 3"),
    "whole vectors": ("conv2d", "padding=(1, 1)", "2, 16, 8, 8", "32, 16, 3, 3"),
    "pointwise": ("conv2d", "", "2, 4, 9, 8", "5, 4, 1, 1"),
    "one axis": ("conv1d", "padding=(1,)", "2, 4, 9", "6, 4, 3"),
    "three axes": ("conv3d", "padding=(1, 0, 1)", "2, 2, 4, 5, 6", "3, 2, 2, 2, 2"),
}


@pytest.mark.parametrize("case", CONVS.values(), ids=CONVS)
def test_codes_of_convolutions_are_those_of_the_interpreter(
    case: tuple[str, ...], graph_of: Make, inputs_of: Feed
) -> None:
    op, attrs, shape, weight = case
    outputs, ones = weight.split(",")[0], ", 1" * weight.count(",")
    graph = graph_of(
        f"x: f32[{shape}], *, scale: f32[], z: u8[], w: i8[{weight}], "
        f"w_scale: f32[{outputs}{ones}], c: f32[{outputs}], r_scale: f32[], zero: u8[]",
        "q = quantize(x, scale, z, dtype=u8)",
        "xd = dequantize(q, scale, z)",
        "wd = dequantize(w, w_scale)",
        f"y = {op}(xd, wd, c{', ' if attrs else ''}{attrs})",
        "a = relu(y)",
        "k = quantize(a, r_scale, zero, dtype=u8)",
    )
    graph.store["scale"], graph.store["r_scale"] = torch.tensor(0.027), torch.tensor(0.4)
    graph.store["z"], graph.store["zero"] = torch.tensor([117, 9], dtype=torch.uint8)
    inputs = inputs_of(graph)
    assert kernels(graph)["conv_codes"] == 1
    (found,), (wanted,) = target("tvm").lower(graph)(inputs), execute(graph, inputs)
    assert len(wanted.unique()) > 10
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("zeros", ["", ", wz: i8[6, 1]"])
@pytest.mark.parametrize("point", ["", ", z: u8[]"])
def test_codes_of_products_are_those_of_the_interpreter(
    zeros: str, point: str, graph_of: Make, inputs_of: Feed
) -> None:
    z, wz = ", z" if point else "", ", wz" if zeros else ""
    graph = graph_of(
        f"x: f32[n, t, 64], *, scale: f32[]{point}, w: i8[6, 64], w_scale: f32[6, 1]{zeros}, "
        "c: f32[6], r_scale: f32[]",
        f"q: u8[n, t, 64] = quantize(x, scale{z}, dtype=u8)",
        f"p: f32[n, t, 64] = dequantize(q, scale{z})",
        f"d: f32[6, 64] = dequantize(w, w_scale{wz})",
        "y: f32[n, t, 6] = linear(p, d, c)",
        "k: i8[n, t, 6] = quantize(y, r_scale, dtype=i8)",
    )
    graph.store["scale"], graph.store["r_scale"] = torch.tensor(0.027), torch.tensor(4.0)
    if point:
        graph.store["z"] = torch.tensor(117, dtype=torch.uint8)
    inputs = inputs_of(graph, n=16, t=32)
    (found,), (wanted,) = target("tvm").lower(graph)(inputs), execute(graph, inputs)
    assert len(wanted.unique()) > 30
    assert torch.equal(found, wanted)


def test_sums_do_not_saturate(graph_of: Make, inputs_of: Feed) -> None:
    """255 times 127, four thousand times over, is more than 24 bits hold."""
    graph = graph_of(
        "q: u8[2, 4096], *, scale: f32[], w: i8[3, 4096], w_scale: f32[3, 1]",
        "p = dequantize(q, scale)",
        "d = dequantize(w, w_scale)",
        "y = linear(p, d)",
    )
    graph.store["scale"], graph.store["w_scale"] = torch.tensor(1.0), torch.ones(3, 1)
    graph.store["w"] = torch.full((3, 4096), 127, dtype=torch.int8)
    (found,) = target("tvm").lower(graph)([torch.full((2, 4096), 255, dtype=torch.uint8)])
    assert torch.equal(found, torch.full((2, 3), float(255 * 127 * 4096)))


@pytest.mark.parametrize(
    ("op", "shape", "weight"),
    [("linear", "8, 64", "48, 64"), ("conv2d", "2, 6, 9, 8", "20, 6, 3, 3")],
)
def test_products_of_codes_are_the_instruction_for_them(
    op: str, shape: str, weight: str, graph_of: Make
) -> None:
    if not has_dots(host()):
        pytest.skip("this processor has no such instruction")
    graph = graph_of(
        f"q: u8[{shape}], *, scale: f32[], w: i8[{weight}], "
        f"w_scale: f32[{weight.split(',')[0]}{', 1' * weight.count(',')}]",
        "p = dequantize(q, scale)",
        "d = dequantize(w, w_scale)",
        f"y = {op}(p, d)",
    )
    assembly = lower(graph).source("asm")
    assert "vpdpbusd" in assembly
    assert "vpmulld" not in assembly


def test_a_format_without_a_kernel_is_refused(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(*LAYERS)
    inputs = inputs_of(graph)
    context = Context(inputs=inputs, calibration=[inputs])
    new = Quantize(None, "mxfp4", least=0).attempt(graph, context)[0]
    with pytest.raises(TargetError, match=r"target 'tvm' has no kernel for .* in mxfp4"):
        target("tvm").lower(new)
