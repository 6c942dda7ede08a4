"""Regions found in graphs: what becomes a kernel, what does not, and why; all of it computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graphs import feed, make

from regauge.codegen import excess
from regauge.codegen.op import NAME
from regauge.codegen.partition import Division, divide
from regauge.codegen.rows import rotated
from regauge.ir import Graph
from regauge.ir.formats import named
from regauge.ir.interpret import execute

pytest.importorskip("triton")


def divided(graph: Graph, inputs: list[torch.Tensor], **given: Any) -> Division:
    """The graph in regions. Each kernel is right where it stands, beside its region in float64, and
    the whole gives what the graph gives."""
    before = str(graph)
    found = divide(graph, capability=90, **given)
    assert str(graph) == before
    regions = {part.node: part.region for part in found.placed}
    checked: list[str] = []

    def check(node: Any, value: Any) -> None:
        if node.op == NAME:
            region = regions[node.name]
            names = region.operands(1)
            operands = dict(zip(names, seen[node.name], strict=True))
            flat = {
                name: v.reshape(-1, *names[name].shape[1:]) if names[name].shape[:1] == (1,) else v
                for name, v in operands.items()
            }
            rows = flat["input"].shape[0]
            results = {
                name: part.reshape(rows, *part.shape[2:])
                for name, part in zip(region.results(1), value, strict=True)
            }
            assert max(excess(region, flat, results).values()) < 2e-5
            checked.append(node.name)

    seen: dict[str, list[torch.Tensor]] = {}

    def remember(reader: Any, used: Any, value: Any) -> Any:
        if reader.op == NAME:
            seen.setdefault(reader.name, []).append(value)
        return value

    got = execute(found.graph, inputs, tap=check, read=remember)
    assert len(checked) == len(found.placed)
    for mine, theirs in zip(got, execute(graph, inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    return found


def kinds(found: Division) -> list[str]:
    """The ops that each kernel stands for."""
    return [" ".join(part.kinds) for part in found.placed]


X = "x: f32[n, 7, 32]"
INT8 = "q: i8[48, 32], w_scale: f32[48, 1]"
WEIGHT = "w: f32[48, 32] = dequantize(q, w_scale)"
STATIC = (
    "c: u8[n, 7, 32] = quantize(y, y_scale, zero, dtype=u8)",
    "v: f32[n, 7, 32] = dequantize(c, y_scale, zero)",
)
DYNAMIC = (
    "d: (u8[n, 7, 32], f32[n, 7, 1], u8[n, 7, 1]) = dynamic_quantize(y, per_token=True, dtype=u8)",
    "c: u8[n, 7, 32] = getitem(d, 0)",
    "s: f32[n, 7, 1] = getitem(d, 1)",
    "z: u8[n, 7, 1] = getitem(d, 2)",
    "v: f32[n, 7, 32] = dequantize(c, s, z)",
)
NORM = "y: f32[n, 7, 32] = rms_norm(x, g, normalized_shape=(32,), eps=1e-06)"
PRODUCT = "r: f32[n, 7, 48] = linear(v, w)"


def graph_of(inputs: str, params: str, *body: str) -> Graph:
    return make(f"{inputs}, *, {params}", *body)


def test_norm_and_product_of_tokens() -> None:
    graph = graph_of(X, f"g: f32[32], {INT8}", NORM, WEIGHT, *DYNAMIC, PRODUCT)
    found = divided(graph, feed(graph))
    assert kinds(found) == ["rms_norm dynamic_quantize", "linear"]
    assert (found.rest, found.reasons, found.decoded) == ({}, {}, {})
    codes = found.graph[found.placed[0].node].type
    assert isinstance(codes, tuple) and str(codes[0]) == "i8[n, 7, 32]"


def test_static_codes_with_a_zero_point() -> None:
    params = f"g: f32[32], b: f32[32], y_scale: f32[], zero: u8[], {INT8}, bias: f32[48]"
    norm = "y: f32[n, 7, 32] = layer_norm(x, g, b, normalized_shape=(32,), eps=1e-05)"
    product = "r: f32[n, 7, 48] = linear(v, w, bias)"
    graph = graph_of(X, params, norm, WEIGHT, *STATIC, product)
    assert kinds(divided(graph, feed(graph))) == ["layer_norm quantize", "linear"]


def test_a_sum_in_front_of_a_norm_is_given_back() -> None:
    add = "x: f32[n, 7, 32] = add(a, e)"
    graph = make(
        f"a: f32[n, 7, 32], e: f32[n, 7, 32], *, g: f32[32], {INT8}",
        add, NORM, WEIGHT, *DYNAMIC, PRODUCT, "u: f32[n, 7, 32] = tanh(x)",
        "sums: f32[n, 7, 1] = sum(r, dim=(-1,), keepdim=True)",
        "out: f32[n, 7, 32] = mul(u, sums)",
    )  # fmt: skip
    found = divided(graph, feed(graph))
    assert kinds(found) == ["add rms_norm dynamic_quantize", "linear"]
    assert found.rest == {"tanh": 1, "sum": 1, "mul": 1}
    assert "PyTorch's own ops, for which no kernel is made: 1 mul, 1 sum, 1 tanh" in found.notes


def test_gates_are_fused_with_what_quantizes_and_alone() -> None:
    gate = ("t: f32[n, 7, 32] = silu(a)", "y: f32[n, 7, 32] = mul(t, e)")
    head = "a: f32[n, 7, 32], e: f32[n, 7, 32]"
    graph = graph_of(head, INT8, *gate, WEIGHT, *DYNAMIC, PRODUCT)
    assert kinds(divided(graph, feed(graph))) == ["silu mul dynamic_quantize", "linear"]
    graph = make(head, *gate)
    assert kinds(divided(graph, feed(graph))) == ["silu mul"]


@pytest.mark.parametrize("gelu", ["gelu(r)", "gelu(r, approximate='tanh')", "relu(r)", "silu(r)"])
def test_a_product_takes_its_activation_and_its_quantizer(gelu: str) -> None:
    graph = graph_of(
        X, f"y_scale: f32[], zero: u8[], out_scale: f32[], {INT8}",
        "y: f32[n, 7, 32] = mul(x, 2.0)", WEIGHT, *STATIC, PRODUCT,
        f"e: f32[n, 7, 48] = {gelu}",
        "o: u8[n, 7, 48] = quantize(e, out_scale, zero, dtype=u8)",
    )  # fmt: skip
    graph.store["w_scale"] = graph.store["w_scale"] / 50
    found = divided(graph, feed(graph))
    assert kinds(found)[1:] == [f"linear {gelu.partition('(')[0]} quantize"]
    assert kinds(found)[0] == "quantize"


def test_codes_that_nothing_multiplies_are_decoded() -> None:
    graph = graph_of(X, "g: f32[32]", NORM, *DYNAMIC, "o: f32[n, 7, 32] = tanh(v)")
    found = divided(graph, feed(graph))
    assert kinds(found) == ["rms_norm dynamic_quantize"]
    assert found.rest == {"dequantize": 1, "tanh": 1}


def test_numbers_in_e4m3() -> None:
    graph = graph_of(
        X, "g: f32[32], w: f32[48, 32]", NORM,
        "v: f32[n, 7, 32] = fake_quantize(y, format='fp8-e4m3-token')", PRODUCT,
    )  # fmt: skip
    encode(graph, "w", "fp8-e4m3-channel")
    found = divided(graph, feed(graph))
    assert kinds(found) == ["rms_norm fake_quantize", "linear"]
    older = divide(graph, capability=80)
    assert older.placed == ()
    assert older.reasons["v"] == "a device of capability 80 has no numbers in E4M3"


FEW = "v: f32[n, 7, 32] = fake_quantize(y, format='int6-token')"


@pytest.mark.parametrize("form", ["int6-channel", "int3-channel", "int8-channel"])
def test_codes_of_few_bits(form: str) -> None:
    graph = graph_of(
        X, "g: f32[32], w: f32[48, 32], bias: f32[48]", NORM, FEW,
        "r: f32[n, 7, 48] = linear(v, w, bias)", "o: f32[n, 7, 48] = silu(r)",
    )  # fmt: skip
    encode(graph, "w", form)
    found = divided(graph, feed(graph))
    assert kinds(found) == ["rms_norm fake_quantize", "linear silu"]
    assert [type(part.region).__name__ for part in found.placed] == ["Rows", "Matmul"]
    assert (found.rest, found.reasons, found.decoded) == ({}, {}, {})


@pytest.mark.parametrize(
    ("reader", "regions"),
    [
        ("s: f32[1, 1, 48] = linear(v, k)", ["Rows", "Bitplanes", "Bitplanes"]),
        ("s: f32[1, 1, 1] = sum(v, dim=(-1,), keepdim=True)", ["Rows", "Matmul"]),
    ],
)
def test_codes_of_few_bits_of_one_row(reader: str, regions: list[str]) -> None:
    """Products by bits, where nothing else reads the codes."""
    body = [
        NORM, FEW, "r: f32[n, 7, 48] = linear(v, w, bias)", "o: f32[n, 7, 48] = silu(r)",
        "t: f32[n, 7, 48] = mul(o, s)",
    ]  # fmt: skip
    x, *lines = [line.replace("n, 7", "1, 1") for line in (X, *body)]
    params = "g: f32[32], w: f32[48, 32], k: f32[48, 32], bias: f32[48]"
    graph = graph_of(x, params, *lines[:-1], reader, lines[-1])
    for name, form in {"w": "int6-channel", "k": "int4-channel"}.items():
        encode(graph, name, form)
    found = divided(graph, feed(graph))
    assert [type(part.region).__name__ for part in found.placed] == regions
    assert kinds(found)[:2] == ["rms_norm fake_quantize", "linear silu"]
    assert found.decoded == {}


def encode(graph: Graph, name: str, form: str) -> None:
    """Let a parameter be the codes of a format."""
    node = graph.params[name]
    packed = named(form).quantize(graph.store[name] / 6).pack()
    parts = {"codes": packed.codes, "scale": packed.scale}
    parts |= {} if packed.zero is None else {"zero": packed.zero}
    made = {key: graph.param(f"{name}_{key}", value) for key, value in parts.items()}
    args = (made["codes"], made["scale"], None, made.get("zero"))
    value = graph.add(
        "decode", *args, format=form, shape=node.shape, dtype=node.dtype, type=node.type,
        before=graph.nodes[0],
    )  # fmt: skip
    graph.replace(node, value)
    graph.erase(node)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("form", ["int4-g32-asym", "int4-channel", "int6-g32", "int2-g32-asym"])
def test_weights_of_few_bits(form: str, dtype: str) -> None:
    graph = make(
        f"v: {dtype}[n, 7, 32], *, w: {dtype}[48, 32], bias: {dtype}[48]",
        f"r: {dtype}[n, 7, 48] = linear(v, w, bias)",
        f"o: {dtype}[n, 7, 48] = relu(r)",
    )
    encode(graph, "w", form)
    inputs = feed(graph)
    found = divide(graph, capability=90)
    assert kinds(found) == ["linear relu"]
    (got,), (wanted,) = execute(found.graph, inputs), execute(graph, inputs)
    # The graph rounds each weight, and sums in its own order.
    eps = torch.finfo(got.dtype).eps
    assert float((got - wanted).double().norm() / wanted.double().norm()) < eps


def test_in_float32_inputs_are_rounded_only_where_that_is_asked_for() -> None:
    graph = make("v: f32[n, 7, 32], *, w: f32[48, 32]", PRODUCT)
    encode(graph, "w", "int4-g32-asym")
    inputs = feed(graph)
    found = divided(graph, inputs)
    assert found.placed == ()
    assert "options={'half': 'bfloat16'}" in found.reasons["r"]
    assert list(found.decoded.values()) == [48 * 32 * 4]
    found = divide(graph, capability=90, half=torch.float16)
    assert kinds(found) == ["linear"]
    (got,), (wanted,) = execute(found.graph, inputs), execute(graph, inputs)
    assert got.dtype == torch.float32
    assert float((got - wanted).norm() / wanted.norm()) < 1e-3  # 2^-11, in inputs and steps


@pytest.mark.parametrize(
    ("pattern", "region"), [("fours", "SemiSparse"), ("blocks", "BlockSparse"), ("none", "")]
)
def test_sparse_weights(pattern: str, region: str) -> None:
    graph = make(
        "v: bf16[n, 7, 64], *, w: bf16[96, 64], bias: bf16[96]",
        "r: bf16[n, 7, 96] = linear(v, w, bias)",
    )
    weight = graph.store["w"].clone() / 8
    match pattern:
        case "fours":
            weight.unflatten(1, (-1, 4))[..., 1:3] = 0
        case "blocks":
            weight[:64] = 0
        case _:
            weight[:, 16:56] = 0
    graph.store["w"] = weight
    found = divide(graph, capability=90)
    assert [type(part.region).__name__ for part in found.placed] == [region] * bool(region)
    inputs = feed(graph)
    (got,), (wanted,) = execute(found.graph, inputs), execute(graph, inputs)
    assert float((got - wanted).double().norm() / wanted.double().norm()) < 2**-8
    if not region:
        assert "neither whole blocks nor two of each four" in found.reasons["r"]


def test_a_rotation_by_sylvesters_matrix() -> None:
    graph = graph_of(
        "x: f32[3, 7, 32]", f"h: f32[16, 16], {INT8}",
        *[line.replace("n,", "3,") for line in (
            "k: f32[n, 7, 2, 16] = reshape(x, shape=(3, 7, 2, 16))",
            "p: f32[n, 7, 2, 16] = linear(k, h)",
            "y: f32[n, 7, 32] = reshape(p, shape=(3, 7, 32))", WEIGHT, *DYNAMIC, PRODUCT,
        )],
    )  # fmt: skip
    assert kinds(divided(graph, feed(graph))) == ["dynamic_quantize", "linear"]
    graph.store["h"] = rotated(torch.eye(16), 16)
    found = divided(graph, feed(graph))
    assert kinds(found) == ["reshape linear reshape dynamic_quantize", "linear"]


@pytest.mark.parametrize(
    ("rows", "covers"), [(3, "reshape linear reshape linear relu"), (40, "linear relu")]
)
def test_ternary_weights_in_the_domain_of_a_rotation(rows: int, covers: str) -> None:
    graph = make(
        f"x: bf16[{rows}, 128], *, h: bf16[64, 64], w: bf16[48, 128], k: bf16[48, 128]",
        f"a: bf16[{rows}, 2, 64] = reshape(x, shape=({rows}, 2, 64))",
        f"b: bf16[{rows}, 2, 64] = linear(a, h)",
        f"v: bf16[{rows}, 128] = reshape(b, shape=({rows}, 128))",
        f"r: bf16[{rows}, 48] = linear(v, w)",
        f"y: bf16[{rows}, 48] = relu(r)",
        f"u: bf16[{rows}, 48] = linear(v, k)",
        f"o: bf16[{rows}, 48] = add(y, u)",
    )
    graph.store["h"] = rotated(torch.eye(64), 64).bfloat16()
    for name in ("w", "k"):
        encode(graph, name, "ternary-g64")
    inputs = feed(graph)
    found = divide(graph, capability=90)
    assert kinds(found) == [covers, covers.removesuffix(" relu")]
    (got,), (wanted,) = execute(found.graph, inputs), execute(graph, inputs)
    # The graph rounds what is turned, each weight and each result.
    assert float((got - wanted).double().norm() / wanted.double().norm()) < 2**-7


@pytest.mark.parametrize("form", ["log2-4-token", "logsqrt2-4-token", "log2-3-token"])
def test_probabilities_in_logarithms(form: str) -> None:
    graph = graph_of(
        X, "w: f32[48, 32]", "y: f32[n, 7, 32] = softmax(x, dim=-1)",
        f"v: f32[n, 7, 32] = fake_quantize(y, format='{form}')", PRODUCT,
    )  # fmt: skip
    found = divided(graph, feed(graph))
    assert kinds(found) == ["softmax fake_quantize"]


@pytest.mark.parametrize("form", ["log2-4", "logsqrt2-4"])
def test_probabilities_in_logarithms_of_a_known_scale(form: str) -> None:
    graph = graph_of(
        X, "w: f32[48, 32], s: f32[]", "y: f32[n, 7, 32] = softmax(x, dim=-1)",
        f"v: f32[n, 7, 32] = fake_quantize(y, s, format='{form}')", PRODUCT,
    )  # fmt: skip
    graph.store["s"] = torch.tensor(0.5)
    found = divided(graph, feed(graph))
    assert kinds(found) == ["softmax fake_quantize"]


@pytest.mark.parametrize(
    ("params", "body", "node", "reason"),
    [
        ("w: f32[48, 32]", (
            "u: f32[n, 7, 32] = sigmoid(y)",
            "v: f32[n, 7, 32] = fake_quantize(u, format='log2-4-token')", PRODUCT),
         "v", "the logarithm of what a softmax gives"),
        ("w: f32[48, 32]", (
            "u: f32[n, 7, 32] = softmax(y, dim=-1)",
            "v: f32[n, 7, 32] = fake_quantize(u, format='log2-4-g32')", PRODUCT),
         "v", "no kernel finds the scales of log2-4-g32"),
        ("w: f32[48, 32]", (
            "u: f32[n, 7, 32] = softmax(y, dim=-1)", "t: f32[] = amax(y, dim=(0, 1, 2))",
            "v: f32[n, 7, 32] = fake_quantize(u, t, format='log2-4')", PRODUCT),
         "v", "scale of log2-4 comes with the data"),
        (
            "q: i8[40, 32], w_scale: f32[40, 1]",
            (WEIGHT.replace("48", "40"), *DYNAMIC, PRODUCT.replace("48", "40")),
            "r", "multiples of 16, not 32 and 40",
        ),
        ("w: f32[48, 32]", (*DYNAMIC, PRODUCT), "r", "in floating point"),
        (INT8, (WEIGHT, "v: f32[n, 7, 32] = tanh(y)", PRODUCT), "r", "by what is no codes"),
        (
            f"{INT8}, w_zero: i8[48, 1]",
            ("w: f32[48, 32] = dequantize(q, w_scale, w_zero)", *DYNAMIC, PRODUCT),
            "r", "without zero points",
        ),
        ("one: f32[1]", (*DYNAMIC, "k: u8[n, 7, 32] = abs(c)", "o: f32[n, 7, 32] = mul(v, k)"),
         "d", "codes are read by k"),
        (
            "y_scale: f32[32], zero: u8[]", STATIC, "c", "by the tensor or by the token",
        ),
    ],
)  # fmt: skip
def test_what_stays_says_why(params: str, body: Any, node: str, reason: str) -> None:
    graph = graph_of(X, params, "y: f32[n, 7, 32] = mul(x, 2.0)", *body)
    found = divided(graph, feed(graph))
    assert reason in found.reasons[node]
    assert any(reason in note and node in note for note in found.notes)


def test_tables_stay_in_codes() -> None:
    graph = make(
        "i: i64[n], *, q: i8[48, 32], w_scale: f32[48, 1]",
        WEIGHT, "r: f32[n, 32] = embedding(w, i)",
    )  # fmt: skip
    found = divided(graph, feed(graph))
    assert found.decoded == {}
    assert found.rest == {"embedding": 2, "dequantize": 1}


def test_compiles_as_one_graph() -> None:
    graph = graph_of(X, f"g: f32[32], {INT8}", NORM, WEIGHT, *DYNAMIC, PRODUCT)
    inputs = feed(graph)
    flat: Any = divide(graph, capability=90).graph.to_module()
    run = torch.compile(flat.flat, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(run(*inputs), flat.flat(*inputs))
