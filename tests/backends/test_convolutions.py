"""Convolutions on codes, with the padding before them and the clip, sum and pooling after."""

from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch

from regauge.backends.onnx import emit
from regauge.ir import Graph
from regauge.ir.codes import fits_pairs, in_kernel_order, out_of_kernel_order, paired

Make: TypeAlias = Callable[..., Graph]
Kinds: TypeAlias = Callable[[Graph], Counter[str]]
Check: TypeAlias = Callable[..., None]

WEIGHT = "wd = dequantize(w, w_scale)"

CONV = (
    "x: f32[n, 4, 9, 8], *, scale: f32[], z: u8[], w: i8[6, 4, 3, 3], w_scale: f32[6, 1, 1, 1], "
    "c: f32[6], r_scale: f32[], zero: u8[]",
    "q = quantize(x, scale, z, dtype=u8)",
    "xd = dequantize(q, scale, z)",
    WEIGHT,
    "y = conv2d(xd, wd, c, stride=(2, 1), padding=(1, 1))",
)


def test_a_convolution_between_codes_is_one_on_integers(
    graph_of: Make, kinds: Kinds, check_runs: Check
) -> None:
    graph = graph_of(
        *CONV,
        "a = relu(y)",
        "k = quantize(a, r_scale, zero, dtype=u8)",
        "d = dequantize(k, r_scale, zero)",
    )
    graph.store["zero"] = torch.tensor(0, dtype=torch.uint8)
    assert kinds(graph) == {"QuantizeLinear": 1, "QLinearConv": 1, "DequantizeLinear": 1}
    # A sum that lies on the border of two codes falls to either side: one step of the scale.
    check_runs(graph, rtol=0, atol=1.01 * graph.store["r_scale"].item())


@pytest.mark.parametrize(
    "top", ["relu6(y)", "hardtanh(y, min_val=0, max_val=6)", "clamp(y, min=0)"]
)
def test_a_relu_with_a_top_is_the_range_of_the_codes(
    top: str, graph_of: Make, kinds: Kinds, check_runs: Check
) -> None:
    graph = graph_of(
        *CONV,
        f"a = {top}",
        "k = quantize(a, r_scale, zero, dtype=u8)",
        "d = dequantize(k, r_scale, zero)",
    )
    graph.store["zero"] = torch.tensor(0, dtype=torch.uint8)
    graph.store["r_scale"] = torch.tensor(6 / 255)
    assert kinds(graph)["QLinearConv"] == 1
    check_runs(graph, rtol=0, atol=1.01 * graph.store["r_scale"].item())


def test_a_relu_above_another_zero_point_stays(
    graph_of: Make, kinds: Kinds, check_runs: Check
) -> None:
    graph = graph_of(
        *CONV,
        "a = relu(y)",
        "k = quantize(a, r_scale, zero, dtype=u8)",
        "d = dequantize(k, r_scale, zero)",
    )
    graph.store["zero"] = torch.tensor(9, dtype=torch.uint8)
    assert kinds(graph)["QLinearConv"] == 0
    check_runs(graph, rtol=0, atol=1.01 * graph.store["r_scale"].item())


def test_a_convolution_with_a_float_result_is_one_on_floats(
    graph_of: Make, kinds: Kinds, check_runs: Check
) -> None:
    graph = graph_of(*CONV)
    assert kinds(graph)["Conv"] == 1
    check_runs(graph)


PADDED = (
    "x: f32[n, 4, 9, 8], *, scale: f32[], z: u8[], w: i8[6, 4, 3, 3], w_scale: f32[6, 1, 1, 1], "
    "c: f32[6], r_scale: f32[], zero: u8[]",
    "p = constant_pad_nd(x, pad=(0, 1, 2, 0))",
    "q = quantize(p, scale, z, dtype=u8)",
    "xd = dequantize(q, scale, z)",
    WEIGHT,
    "y = conv2d(xd, wd, c, stride=(2, 2), padding=(1, 0))",
)


def test_zeros_around_codes_are_padding_of_the_convolution(
    graph_of: Make, kinds: Kinds, check_runs: Check
) -> None:
    graph = graph_of(
        *PADDED, "k = quantize(y, r_scale, zero, dtype=u8)", "d = dequantize(k, r_scale, zero)"
    )
    assert kinds(graph) == {"QuantizeLinear": 1, "QLinearConv": 1, "DequantizeLinear": 1}
    (conv,) = (node for node in emit(graph).graph.node if node.op_type == "QLinearConv")
    pads = next(list(a.ints) for a in conv.attribute if a.name == "pads")
    assert pads == [3, 0, 1, 1]  # top, left, bottom, right
    check_runs(graph, rtol=0, atol=1.01 * graph.store["r_scale"].item())


def test_zeros_around_floats_are_padding_too_and_others_stay(
    graph_of: Make, kinds: Kinds, check_runs: Check
) -> None:
    head = "x: f32[n, 4, 9, 8], *, w: f32[6, 4, 3, 3]"
    zeros = graph_of(head, "p = constant_pad_nd(x, pad=(0, 1))", "y = conv2d(p, w)")
    assert kinds(zeros) == {"Conv": 1}
    check_runs(zeros)
    for pad in ("pad=(0, 1), value=1.0", "pad=(0, 1, 0, 0, 1, -1)"):
        other = graph_of(head, f"p = constant_pad_nd(x, {pad})", "y = conv2d(p, w)")
        assert kinds(other) == {"Pad": 1, "Conv": 1}
        check_runs(other)


def test_a_sum_of_codes_is_one_kernel(graph_of: Make, kinds: Kinds, check_runs: Check) -> None:
    graph = graph_of(
        "x: f32[n, 4, 9], y: f32[n, 4, 9], *, scale: f32[], z: u8[], y_scale: f32[], yz: u8[], "
        "r_scale: f32[], zero: u8[]",
        "p = quantize(x, scale, z, dtype=u8)",
        "q = quantize(y, y_scale, yz, dtype=u8)",
        "a = dequantize(p, scale, z)",
        "b = dequantize(q, y_scale, yz)",
        "s = add(a, b)",
        "r = relu(s)",
        "k = quantize(r, r_scale, zero, dtype=u8)",
        "d = dequantize(k, r_scale, zero)",
    )
    graph.store["zero"] = torch.tensor(0, dtype=torch.uint8)
    assert kinds(graph) == {"QuantizeLinear": 2, "QLinearAdd": 1, "DequantizeLinear": 1}
    check_runs(graph, rtol=0, atol=1.01 * graph.store["r_scale"].item())


@pytest.mark.parametrize("same", [True, False])
def test_a_maximum_of_codes_is_that_of_values_if_scales_agree(
    same: bool, graph_of: Make, kinds: Kinds, check_runs: Check
) -> None:
    graph = graph_of(
        "x: f32[n, 4, 9, 9], *, scale: f32[], z: u8[], r_scale: f32[], zero: u8[]",
        "p = quantize(x, scale, z, dtype=u8)",
        "a = dequantize(p, scale, z)",
        "m = max_pool2d(a, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))",
        "k = quantize(m, r_scale, zero, dtype=u8)",
        "d = dequantize(k, r_scale, zero)",
    )
    if same:
        graph.store["r_scale"], graph.store["zero"] = graph.store["scale"], graph.store["z"]
    assert (kinds(graph)["QuantizeLinear"] == 1) is same
    check_runs(graph, rtol=0, atol=0 if same else 1.01 * graph.store["r_scale"].item())


@pytest.mark.parametrize("same", [True, False])
def test_codes_in_another_shape_are_the_same_codes_if_scales_agree(
    same: bool, graph_of: Make, kinds: Kinds, check_runs: Check
) -> None:
    graph = graph_of(
        "x: f32[3, 4, 9], *, scale: f32[], z: u8[], r_scale: f32[], zero: u8[]",
        "p = quantize(x, scale, z, dtype=u8)",
        "a = dequantize(p, scale, z)",
        "m = reshape(a, shape=(3, 36))",
        "k = quantize(m, r_scale, zero, dtype=u8)",
        "d = dequantize(k, r_scale, zero)",
    )
    if same:
        graph.store["r_scale"], graph.store["zero"] = graph.store["scale"], graph.store["z"]
    assert (kinds(graph)["QuantizeLinear"] == 1) is same
    check_runs(graph, rtol=0, atol=0 if same else 1.01 * graph.store["r_scale"].item())


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_sums_of_paired_codes_do_not_saturate(
    groups: int, graph_of: Make, check_runs: Check
) -> None:
    graph = graph_of(
        f"x: f32[n, 8, 9, 8], *, scale: f32[], z: u8[], w: i8[8, {8 // groups}, 3, 3], "
        "w_scale: f32[8, 1, 1, 1], r_scale: f32[], zero: u8[]",
        "q = quantize(x, scale, z, dtype=u8)",
        "xd = dequantize(q, scale, z)",
        WEIGHT,
        f"y = conv2d(xd, wd, padding=(1, 1), groups={groups})",
        "k = quantize(y, r_scale, zero, dtype=u8)",
        "d = dequantize(k, r_scale, zero)",
    )
    graph.store["scale"] = torch.tensor(1e-3)  # so that codes are 0 or 255
    signs = torch.randint(0, 2, (8, 8 // groups, 3, 3), generator=torch.Generator().manual_seed(0))
    extreme = (254.0 * signs - 127).float()
    codes = out_of_kernel_order(paired(in_kernel_order(extreme)), extreme.shape).to(torch.int8)
    assert fits_pairs(codes) and not fits_pairs(extreme)
    graph.store["w"] = codes
    graph.store["zero"] = torch.tensor(128, dtype=torch.uint8)
    graph.store["r_scale"] = torch.tensor(0.2)
    assert not emit(graph).metadata_props  # so this runs on the kernels that may saturate
    check_runs(graph, rtol=0, atol=0.201)
