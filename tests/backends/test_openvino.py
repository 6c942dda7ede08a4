"""OpenVINO, and the ONNX that it reads: standard ops alone."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import onnx
import pytest
import torch
from small_models import zoo_model
from torch import nn

import regauge as rg
from regauge.backends.onnx import Dialect, emit
from regauge.backends.openvino import DIALECT
from regauge.backends.profiles import TARGETS
from regauge.frontend import trace
from regauge.ir import Graph, TargetError
from regauge.ir.interpret import execute
from regauge.passes import Context, Legalize, Quantize, QuantizeAttention

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


def quantized(graph: Graph, inputs: list[torch.Tensor], *how: Any) -> Graph:
    context = Context(inputs=inputs, calibration=[inputs], pairs_in_16_bits=True)
    return Quantize(*how, least=0).attempt(graph, context)[0]


@pytest.mark.parametrize("how", [("static",), (None, "int4-g32-asym"), (None, "int8-g32")])
def test_a_portable_model_has_standard_ops_alone(
    graph_of: Make, inputs_of: Feed, how: tuple[Any, ...]
) -> None:
    graph = graph_of(*LAYERS)
    model = emit(quantized(graph, inputs_of(graph), *how), DIALECT)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["DequantizeLinear"] == (6 if how == ("static",) else 4)
    assert kinds["QuantizeLinear"] == (3 if how == ("static",) else 0)


def test_codes_of_four_bits_take_half_a_byte(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(*LAYERS)
    model = emit(quantized(graph, inputs_of(graph), None, "int4-g32-asym"), DIALECT)
    (codes,) = (t for t in model.graph.initializer if list(t.dims) == [96, 64])
    assert codes.data_type == onnx.TensorProto.UINT4
    assert len(codes.raw_data) == 96 * 64 // 2


def test_another_opset_is_in_the_file(graph_of: Make) -> None:
    model = emit(graph_of("x: f32[n, 4]", "y = relu(x)"), Dialect("openvino", opset=20))
    assert model.opset_import[0].version == 20


@pytest.mark.parametrize("name", ["openvino", "qnn", "c"])
def test_scales_that_come_with_the_data_are_refused(
    name: str, graph_of: Make, inputs_of: Feed
) -> None:
    graph = graph_of(*(line.replace("n, t", "3, 5") for line in LAYERS))
    with pytest.raises(TargetError, match="codes of static scales alone") as caught:
        TARGETS[name].check_graph(quantized(graph, inputs_of(graph), "dynamic"))
    assert "passes='w8a8'" in str(caught.value)


class TestRuns:
    """Where OpenVINO is installed."""

    @pytest.fixture(autouse=True)
    def needs_openvino(self) -> None:
        pytest.importorskip("openvino")

    @pytest.mark.parametrize(
        ("how", "most"),
        [(None, 1e-6), (("static",), 1e-5), ((None, "int4-g32-asym"), 1e-5), ((None,), 1e-5)],
    )
    def test_computes_what_the_interpreter_computes(
        self, graph_of: Make, inputs_of: Feed, how: tuple[Any, ...] | None, most: float
    ) -> None:
        from regauge.backends.openvino import lower

        graph = graph_of(*LAYERS)
        new = graph if how is None else quantized(graph, inputs_of(graph), *how)
        runner = lower(new, threads=1)
        for sizes in ({}, {"n": 1, "t": 7}):
            inputs = inputs_of(graph, **sizes)
            (found,), (wanted,) = runner(inputs), execute(new, inputs)
            assert float((found - wanted).norm() / wanted.norm()) < most

    def test_bfloat16_is_refused_and_float64_noted(self, graph_of: Make) -> None:
        from regauge.backends.openvino import lower

        with pytest.raises(TargetError, match="x is in bfloat16, which OpenVINO's Python"):
            lower(graph_of("x: bf16[2, 8]", "y = tanh(x)"))
        (note,) = lower(graph_of("x: f64[2, 8]", "y = tanh(x)")).notes
        assert note == "in float64, which OpenVINO computes in float32: y"
        assert not lower(graph_of("x: f32[n, 8]", "n = sym_size(x, dim=0)", "y = tanh(x)")).notes

    @pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
    @pytest.mark.parametrize("layers", [1, 2])
    @pytest.mark.parametrize("first", [True, False])
    def test_both_directions_of_stacked_layers(
        self, kind: type[nn.LSTM | nn.GRU], layers: int, first: bool
    ) -> None:
        from regauge.backends.openvino import lower

        torch.manual_seed(0)
        net = kind(8, 6, layers, bidirectional=True, batch_first=first).eval()
        x = torch.randn(3, 5, 8)
        graph = trace(net, (x,))
        for found, wanted in zip(lower(graph, threads=1)([x]), execute(graph, [x]), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)

    def test_both_directions_of_a_plain_layer_are_refused(self) -> None:
        graph = trace(nn.RNN(8, 6, bidirectional=True).eval(), (torch.randn(3, 5, 8),))
        with pytest.raises(TargetError, match="OpenVINO computes RNN layers wrongly"):
            emit(graph, DIALECT)

    def test_codes_are_multiplied_as_integers(self, graph_of: Make, inputs_of: Feed) -> None:
        from regauge.backends.openvino import lower

        graph = graph_of(*LAYERS)
        runner = lower(quantized(graph, inputs_of(graph), "static"), threads=1)
        ops: Any = runner.executed
        assert Counter(p for kind, p in ops if kind == "FullyConnected") == {"u8": 3}

    def test_scores_of_attention_are_products_of_codes(
        self, graph_of: Make, inputs_of: Feed
    ) -> None:
        from regauge.backends.openvino import lower

        graph = graph_of(
            "q: f32[n, 4, t, 32], k: f32[n, 4, t, 32], v: f32[n, 4, t, 32]",
            "y: f32[n, 4, t, 32] = scaled_dot_product_attention(q, k, v, is_causal=True)",
        )
        inputs = inputs_of(graph)
        new, _ = Legalize(frozenset({"scaled_dot_product_attention"})).attempt(
            graph, Context(inputs=inputs)
        )
        plain = lower(new, threads=1)
        assert ("MatMul", "i8") not in plain.executed
        torch.testing.assert_close(plain(inputs), execute(graph, inputs))
        new, _ = QuantizeAttention()(new, Context(inputs=inputs, calibration=[inputs]))
        runner = lower(new, threads=1)
        assert ("MatMul", "i8") in runner.executed
        torch.testing.assert_close(runner(inputs), execute(new, inputs), rtol=1e-4, atol=1e-5)

    def test_the_preset_takes_attention_in_parts_and_its_scores_in_codes(self) -> None:
        model = zoo_model("llama").model
        generator = torch.Generator().manual_seed(0)
        ids = [torch.randint(3, 99, (2, 12), generator=generator) for _ in range(3)]
        art = rg.compile(model, ids[0], passes="w8a8", target="openvino", calibration=ids[1:])
        found = [str(remark) for step in art.report.passes for remark in step.remarks]
        assert sum("queries and keys in codes" in remark for remark in found) == 2
        exact = rg.compile(model, ids[0], passes="exact", target="openvino")
        kinds = Counter(node.op for node in exact.graph.nodes)
        assert kinds["scaled_dot_product_attention"] == 2

    def test_weights_with_zero_points_are_right(self, graph_of: Make, inputs_of: Feed) -> None:
        from regauge.backends.openvino import lower

        graph = graph_of(
            "x: f32[n, 8], *, w: i8[6, 8], w_scale: f32[6, 1], z: i8[6, 1], f_scale: f32[]",
            "q: u8[n, 8] = quantize(x, f_scale, dtype=u8)",
            "p: f32[n, 8] = dequantize(q, f_scale)",
            "d: f32[6, 8] = dequantize(w, w_scale, z)",
            "y: f32[n, 6] = linear(p, d)",
        )
        inputs = inputs_of(graph)
        torch.testing.assert_close(lower(graph)(inputs), execute(graph, inputs))

    def test_it_is_saved_and_loaded(self, graph_of: Make, inputs_of: Feed, tmp_path: Path) -> None:
        from regauge.backends.openvino import load, lower

        graph = graph_of(*LAYERS)
        runner, inputs = lower(graph), inputs_of(graph)
        runner.save(tmp_path)
        assert runner.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
        torch.testing.assert_close(load(tmp_path, graph)(inputs), runner(inputs), rtol=0, atol=0)

    def test_complex_numbers_are_refused(self, graph_of: Make) -> None:
        from regauge.backends.openvino import lower

        graph = graph_of(
            "x: f32[n, 16]", "s: c64[n, 9] = aten.fft_rfft.default(x)", "y: f32[n, 9] = abs(s)"
        )
        with pytest.raises(TargetError, match="s is complex, which OpenVINO computes wrong"):
            lower(graph)

    def test_what_it_does_not_take_is_said(self, graph_of: Make) -> None:
        from regauge.backends.openvino import lower

        graph = graph_of(
            "x: f32[n, 4, 6], *, scale: f32[1, 1, 6]",
            "q: u8[n, 4, 6] = quantize(x, scale, dtype=u8)",
            "y: f32[n, 4, 6] = dequantize(q, scale)",
        )
        with pytest.raises(
            TargetError, match=r"OpenVINO .* does not take the model: FakeQuantize"
        ) as error:
            lower(graph)
        assert "q: u8[n, 4, 6] = quantize(x, scale" in str(error.value)
