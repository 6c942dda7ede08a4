"""What ONNX Runtime has one fast kernel for becomes that kernel, and computes the same."""

from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch

from regauge.backends.onnx import WIDE_SUMS, emit
from regauge.backends.onnx.dialect import ONNX_RUNTIME
from regauge.backends.onnx.forms import fuse
from regauge.ir import Graph

Make: TypeAlias = Callable[..., Graph]
Feed: TypeAlias = Callable[..., list[torch.Tensor]]
Kinds: TypeAlias = Callable[[Graph], Counter[str]]
Check: TypeAlias = Callable[..., None]


def split(name: str, heads: int = 3) -> tuple[str, ...]:
    """The lines that part a value's heads."""
    return (
        f"{name}n = sym_size({name}, dim=0)",
        f"{name}t = sym_size({name}, dim=1)",
        f"{name}4 = reshape({name}, shape=({name}n, {name}t, {heads}, 8))",
        f"{name}h = transpose({name}4, dim0=1, dim1=2)",
    )


MERGE = ("m = transpose(o, dim0=1, dim1=2)", "y = reshape(m, shape=(qn, qt, 24))")


# -- attention -------------------------------------------------------------------------------------


def test_attention_takes_the_heads_side_by_side(
    graph_of: Make, kinds: Kinds, check_runs: Check
) -> None:
    graph = graph_of(
        "q: f32[n, t, 24], k: f32[n, s, 24], v: f32[n, s, 24], p: bool[n, 1, 1, s]",
        *split("q"),
        *split("k"),
        *split("v"),
        "o = scaled_dot_product_attention(qh, kh, vh, p)",
        *MERGE,
    )
    assert [node.op for node in fuse(graph, ONNX_RUNTIME).nodes] == ["ort.attention"]
    assert kinds(graph)["Attention"] == 1 and kinds(graph)["Transpose"] == 0
    check_runs(graph, s=7)


@pytest.mark.parametrize(("how", "op"), [("", "MultiHeadAttention"), (", p", "Attention")])
def test_attention_over_many_positions_is_taken_in_blocks_without_a_mask(
    graph_of: Make, kinds: Kinds, check_runs: Check, how: str, op: str
) -> None:
    lines = [
        line
        for name in "qkv"
        for line in (
            f"{name}4 = reshape({name}, shape=(2, 70, 3, 8))",
            f"{name}h = transpose({name}4, dim0=1, dim1=2)",
        )
    ]
    given = ", ".join(f"{name}: f32[2, 70, 24]" for name in "qkv")
    graph = graph_of(
        given + (", p: bool[1, 1, 70, 70]" if how else ""),
        *lines,
        f"o = scaled_dot_product_attention(qh, kh, vh{how})",
        "m = transpose(o, dim0=1, dim1=2)",
        "y = reshape(m, shape=(2, 70, 24))",
    )
    assert kinds(graph)[op] == 1
    check_runs(graph)


def test_two_attentions_in_a_row(graph_of: Make, check_runs: Check) -> None:
    graph = graph_of(
        "q: f32[n, t, 24]",
        *split("q"),
        "o = scaled_dot_product_attention(qh, qh, qh, is_causal=True)",
        *MERGE,
        *split("y"),
        "o2 = scaled_dot_product_attention(yh, yh, qh)",
        "m2 = permute(o2, dims=(0, 2, 1, 3))",
        "c = clone(m2)",
        "z = reshape(c, shape=(yn, yt, 24))",
    )
    assert [node.op for node in fuse(graph, ONNX_RUNTIME).nodes] == [
        "ort.attention",
        "ort.attention",
    ]
    check_runs(graph)
    check_runs(graph, n=1, t=1)


def test_attention_without_a_merge_splits_its_heads_again(
    graph_of: Make, check_runs: Check
) -> None:
    graph = graph_of(
        "q: f32[n, t, 24]", *split("q"), "o = scaled_dot_product_attention(qh, qh, qh, scale=0.2)"
    )
    assert [node.op for node in fuse(graph, ONNX_RUNTIME).nodes] == [
        "ort.attention",
        "ort.split_heads",
    ]
    check_runs(graph)


def test_a_value_that_was_not_split_is_merged(graph_of: Make, check_runs: Check) -> None:
    graph = graph_of(
        "q: f32[n, t, 24], k: f32[n, 3, 7, 8]",
        *split("q"),
        "o = scaled_dot_product_attention(qh, k, k)",
        *MERGE,
    )
    assert [node.op for node in fuse(graph, ONNX_RUNTIME).nodes] == [
        "ort.merge_heads",
        "ort.merge_heads",
        "ort.attention",
    ]
    check_runs(graph)


@pytest.mark.parametrize("way", ["expand", "repeat_interleave", "enable_gqa"])
def test_grouped_keys_are_not_repeated(way: str, graph_of: Make, check_runs: Check) -> None:
    repeat = {
        "expand": tuple(
            line
            for x in "kv"
            for line in (
                f"{x}u = unsqueeze({x}h, dim=2)",
                f"{x}e = expand({x}u, size=(-1, -1, 2, -1, -1))",
                f"{x}c = clone({x}e)",
                f"{x}r = reshape({x}c, shape=({x}n, 4, {x}t, 8))",
            )
        ),
        "repeat_interleave": tuple(
            f"{x}r = repeat_interleave({x}h, repeats=2, dim=1)" for x in "kv"
        ),
        "enable_gqa": (),
    }[way]
    call = "qh, kh, vh, enable_gqa=True" if way == "enable_gqa" else "qh, kr, vr"
    graph = graph_of(
        "q: f32[n, t, 32], k: f32[n, t, 16], v: f32[n, t, 16]",
        *split("q", 4),
        *split("k", 2),
        *split("v", 2),
        *repeat,
        f"o = scaled_dot_product_attention({call}, is_causal=True)",
        "m = transpose(o, dim0=1, dim1=2)",
        "y = reshape(m, shape=(qn, qt, 32))",
    )
    (attention,) = fuse(graph, ONNX_RUNTIME).nodes
    assert attention.op == "ort.attention" and attention.attrs["kv_heads"] == 2
    check_runs(graph)


# -- rotary positions ------------------------------------------------------------------------------

ROTATE = (
    "a = slice(qh, dim=3, start=0, end=4)",
    "b = slice(qh, dim=3, start=4, end=9223372036854775807)",
    "bn = neg(b)",
    "r = cat((bn, a), dim=-1)",
    "x1 = mul(qh, cu)",
    "x2 = mul(r, su)",
    "x = add(x1, x2)",
)


def angles(*, twice: bool) -> tuple[str, ...]:
    return (
        f"f = cat((g, {'g' if twice else 'h'}), dim=-1)",
        "c = cos(f)",
        "cs = mul(c, 1.5)",
        "cu = unsqueeze(cs, dim=1)",
        "s = sin(f)",
        "su = unsqueeze(s, dim=1)",
    )


@pytest.mark.parametrize("batch", ["1", "n"])
def test_rotary_positions_are_one_op(batch: str, graph_of: Make, check_runs: Check) -> None:
    graph = graph_of(
        f"q: f32[n, t, 24], g: f32[{batch}, t, 4]",
        *split("q"),
        *angles(twice=True),
        *ROTATE,
        "o = scaled_dot_product_attention(x, x, qh)",
        *MERGE,
    )
    fused = [node.op for node in fuse(graph, ONNX_RUNTIME).nodes]
    assert fused[-2:] == ["ort.rotary", "ort.attention"] and "transpose" not in fused
    check_runs(graph)


def test_rotary_positions_behind_a_norm_of_each_head(
    graph_of: Make, kinds: Kinds, check_runs: Check
) -> None:
    graph = graph_of(
        "q: f32[n, t, 24], g: f32[1, t, 4], *, w: f32[8]",
        "qn = sym_size(q, dim=0)",
        "qt = sym_size(q, dim=1)",
        "q4 = reshape(q, shape=(qn, qt, 3, 8))",
        "k4 = rms_norm(q4, w, normalized_shape=(8,))",
        "qh = transpose(k4, dim0=1, dim1=2)",
        *angles(twice=True),
        *ROTATE,
        "o = scaled_dot_product_attention(x, x, qh)",
        *MERGE,
    )
    assert kinds(graph)["Attention"] == 1 and kinds(graph)["Transpose"] == 0
    check_runs(graph)


def test_rotary_positions_on_heads_apart(graph_of: Make, kinds: Kinds, check_runs: Check) -> None:
    graph = graph_of("qh: f32[n, 3, t, 8], g: f32[1, t, 4]", *angles(twice=True), *ROTATE)
    assert kinds(graph)["RotaryEmbedding"] == 1
    check_runs(graph)


def test_rotary_positions_with_two_different_halves_are_left_alone(
    graph_of: Make, kinds: Kinds, check_runs: Check
) -> None:
    graph = graph_of(
        "qh: f32[n, 3, t, 8], g: f32[1, t, 4], h: f32[1, t, 4]", *angles(twice=False), *ROTATE
    )
    assert kinds(graph)["RotaryEmbedding"] == 0
    check_runs(graph)


# -- residuals -------------------------------------------------------------------------------------


def test_a_residual_before_a_norm_is_a_sum(graph_of: Make, kinds: Kinds, check_runs: Check) -> None:
    graph = graph_of(
        "x: f32[n, t, 8], z: f32[n, t, 8], *, w: f32[8]",
        "a = add(x, z)",
        "b = layer_norm(a, w, normalized_shape=(8,))",
        "c = add(a, b)",
    )
    assert kinds(graph) == {"Sum": 1, "LayerNormalization": 1, "Add": 1}
    check_runs(graph)


# -- codes -----------------------------------------------------------------------------------------

LAYER = "w: i8[6, 8], w_scale: f32[6, 1], c: f32[6]"
WEIGHT = "wd = dequantize(w, w_scale)"

STATIC = (
    f"x: f32[n, t, 8], *, scale: f32[], z: u8[], {LAYER}",
    "q = quantize(x, scale, z, dtype=u8)",
    "xd = dequantize(q, scale, z)",
    WEIGHT,
    "y = linear(xd, wd, c)",
)


def dynamic(*, per_token: bool, bias: str = ", c") -> tuple[str, ...]:
    return (
        f"x: f32[n, t, 8], *, {LAYER}",
        f"p = dynamic_quantize(x, per_token={per_token}, dtype=u8)",
        *(f"p{i} = getitem(p, {i})" for i in range(3)),
        "xd = dequantize(p0, p1, p2)",
        WEIGHT,
        f"y = linear(xd, wd{bias})",
    )


# Integers are exact, so only the products by the scales round: a few units in the last place of
# float32.
TIGHT = {"rtol": 1e-6, "atol": 3e-6}


def test_a_static_layer_is_one_product_of_integers(
    graph_of: Make, kinds: Kinds, check_runs: Check
) -> None:
    graph = graph_of(*STATIC)
    assert kinds(graph) == {"QuantizeLinear": 1, "MatMulIntegerToFloat": 1}
    check_runs(graph, **TIGHT)


def test_layers_that_share_a_value_share_its_codes(
    graph_of: Make, kinds: Kinds, check_runs: Check
) -> None:
    graph = graph_of(*STATIC, "y2 = linear(xd, wd)", "s = add(y, y2)")
    assert kinds(graph)["QuantizeLinear"] == 1 and kinds(graph)["MatMulIntegerToFloat"] == 2
    check_runs(graph, **TIGHT)


def test_layers_that_share_a_weight_store_it_once(graph_of: Make, check_runs: Check) -> None:
    graph = graph_of(
        *dynamic(per_token=True),
        "r = reshape(xd, shape=(-1, 8))",
        *(f"y{i} = linear(r, wd)" for i in range(2)),
        "z = add(y0, y1)",
    )
    assert len([t for t in emit(graph).graph.initializer if list(t.dims) in ([8, 6], [6, 8])]) == 1
    check_runs(graph, **TIGHT)


def test_a_dynamic_layer_is_one_product_of_integers(
    graph_of: Make, kinds: Kinds, check_runs: Check
) -> None:
    graph = graph_of(*dynamic(per_token=False))
    assert kinds(graph) == {"DynamicQuantizeLinear": 1, "MatMulIntegerToFloat": 1}
    check_runs(graph, **TIGHT)


def test_a_layer_by_token_scales_its_rows(graph_of: Make, kinds: Kinds, check_runs: Check) -> None:
    graph = graph_of(*dynamic(per_token=True))
    assert kinds(graph)["MatMulIntegerToFloat"] == 1 and kinds(graph)["DequantizeLinear"] == 0
    check_runs(graph, **TIGHT)
    check_runs(graph_of(*dynamic(per_token=True, bias="")), n=1, t=1, **TIGHT)


def test_extreme_codes_do_not_saturate(graph_of: Make, check_runs: Check) -> None:
    graph = graph_of(*STATIC)
    graph.store["w"] = torch.full((6, 8), 127, dtype=torch.int8)
    graph.store["scale"] = torch.tensor(1e-3)  # so that many codes are 255
    check_runs(graph, rtol=1e-6, atol=1e-4)
    assert dict(WIDE_SUMS) == {prop.key: prop.value for prop in emit(graph).metadata_props}
    graph.store["w"] = torch.full((6, 8), 64, dtype=torch.int8)  # two are 128: 16 bits hold them
    assert not emit(graph).metadata_props
    check_runs(graph, rtol=1e-6, atol=1e-4)


def test_weights_alone_are_floats_once_loaded(
    graph_of: Make, kinds: Kinds, check_runs: Check
) -> None:
    graph = graph_of(f"x: f32[n, t, 8], *, {LAYER}", WEIGHT, "y = linear(x, wd, c)")
    assert set(kinds(graph)) == {"Cast", "Mul", "MatMul", "Add"}
    check_runs(graph)


def test_a_table_tied_to_the_output_head_is_stored_once(
    graph_of: Make, kinds: Kinds, check_runs: Check
) -> None:
    graph = graph_of(
        "i: i64[n, t], *, w: i8[200, 64], w_scale: f32[200, 1]",
        WEIGHT,
        "x = embedding(wd, i)",
        "p = dynamic_quantize(x)",
        *(f"p{k} = getitem(p, {k})" for k in range(3)),
        "xd = dequantize(p0, p1, p2)",
        "y = linear(xd, wd)",
    )
    assert len(emit(graph).SerializeToString()) < 200 * 64 * 1.3
    assert kinds(graph)["MatMulIntegerToFloat"] == 1
    check_runs(graph)


def test_weights_with_zero_points(graph_of: Make, kinds: Kinds, check_runs: Check) -> None:
    graph = graph_of(
        "x: f32[n, 8], *, w: i8[6, 8], w_scale: f32[6, 1], z: i8[6, 1]",
        "p = dynamic_quantize(x)",
        *(f"p{k} = getitem(p, {k})" for k in range(3)),
        "xd = dequantize(p0, p1, p2)",
        "wd = dequantize(w, w_scale, z)",
        "y = linear(xd, wd)",
        "u = linear(x, wd)",
        "s = add(y, u)",
    )
    assert kinds(graph)["MatMulIntegerToFloat"] == 1
    check_runs(graph)
