"""Half precision on ONNX Runtime: what is stored, what is computed, and what stays in float32."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import onnx
import onnxruntime
import pytest
import small_models
import torch
from onnx import TensorProto

from regauge.backends.onnx import ModelFile, emit
from regauge.backends.onnx.half import computed, stored
from regauge.backends.onnxruntime import OnnxRuntimeRunner, lower
from regauge.backends.profiles import target
from regauge.frontend import trace
from regauge.ir import Graph, TargetError
from regauge.ir.interpret import execute, flatten
from regauge.passes import Context, Quantize
from regauge.passes.manager import difference

Make: TypeAlias = Callable[..., Graph]
Feed: TypeAlias = Callable[..., list[torch.Tensor]]

MODELS = ["resnet", "vit", "bert", "llama"]
GRAPH = (
    "x: f32[4, 64], *, w: f32[64, 64], c: f32[64], s: f32[64]",
    "a = linear(x, w, c)",
    "y = rms_norm(a, s, normalized_shape=(64,), eps=1e-05)",
)


def family(name: str) -> tuple[Graph, list[torch.Tensor]]:
    made = small_models.zoo_model(name)
    graph = trace(made.model, made.args, made.kwargs)
    return graph, flatten(graph, made.args, made.kwargs)


def in_half(graph: Graph) -> tuple[OnnxRuntimeRunner, list[str]]:
    """The form for other providers, on the CPU, which runs it with casts."""
    model, notes = computed(emit(graph))
    return OnnxRuntimeRunner(ModelFile.of(model), graph, threads=1), notes


@pytest.mark.parametrize("name", MODELS)
def test_stored_weights_are_half_as_large_and_as_exact_as_their_rounding(name: str) -> None:
    graph, inputs = family(name)
    full, half = lower(graph, threads=1), lower(graph, threads=1, half="float16")
    assert half.bytes < 0.6 * full.bytes
    assert 1e-6 < difference(half(inputs), full(inputs)) < 2**-11
    assert "stored in half precision and computed with in float32" in half.notes[0]


@pytest.mark.parametrize("name", MODELS)
def test_computed_models_are_close(name: str) -> None:
    graph, inputs = family(name)
    runner, notes = in_half(graph)
    assert 1e-5 < difference(runner(inputs), execute(graph, inputs)) < 1e-3
    assert "but for norms, softmax and sums" in notes[0]


def test_what_is_stored_computes_with_the_rounded_weights(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(*GRAPH)
    inputs = inputs_of(graph)
    found = lower(graph, half="float16")(inputs)
    graph.store["w"] = graph.store["w"].half().float()
    torch.testing.assert_close(found, execute(graph, inputs), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("value", [65504.0 * 2, 1e-7], ids=["too large", "too small"])
@pytest.mark.parametrize("form", ["stored", "computed"])
def test_weights_that_half_precision_does_not_hold_stay(
    value: float, form: str, graph_of: Make, inputs_of: Feed
) -> None:
    graph = graph_of(*GRAPH)
    if value > 1:
        graph.store["w"][3, 5] = value
    else:
        graph.store["w"] *= value
    inputs = inputs_of(graph)
    if form == "stored":
        runner = lower(graph, half="float16")
        notes = list(runner.notes)
    else:
        runner, notes = in_half(graph)
    assert notes[-1].startswith("in float32 because half precision does not hold their values: w")
    tight = {"stored": 2e-5, "computed": 1e-3}[form]  # the norm's result is in half precision
    assert difference(runner(inputs), execute(graph, inputs)) < tight


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("y = rms_norm(x, s, normalized_shape=(64,), eps=1e-05)", "RMSNormalization"),
        ("y = layer_norm(x, normalized_shape=(64,))", "LayerNormalization"),
        ("y = softmax(x, dim=-1)", "Softmax"),
        ("y = sum(x, dim=(1,))", "ReduceSum"),
    ],
)
def test_norms_softmax_and_sums_read_float32(body: str, kind: str, graph_of: Make) -> None:
    """What they add up may be beyond 65504; a CPU would compute it in float32 in any case."""
    head = "v: f32[4, 64], *, s: f32[64], w: f32[64, 64]"
    model, _ = computed(emit(graph_of(head, "x = linear(v, w)", body)))
    made = {name: node for node in model.graph.node for name in node.output}
    (product,) = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    (norm,) = [node for node in model.graph.node if node.op_type == kind]
    cast = made[norm.input[0]]
    assert cast.op_type == "Cast" and cast.attribute[0].i == TensorProto.FLOAT
    assert list(cast.input) == list(product.output)


def test_scales_of_codes_stay_in_float32() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.Linear(512, 64)).eval()
    inputs = [torch.randn(16, 64)]
    context = Context(inputs=inputs, calibration=[inputs])
    graph = Quantize("static", least=0).attempt(trace(model, (inputs[0],)), context)[0]
    full, half = lower(graph, threads=1), lower(graph, threads=1, half="float16")
    torch.testing.assert_close(half(inputs), full(inputs), rtol=0, atol=0)
    model_of = emit(graph)
    stored(model_of)
    kinds = {tensor.data_type for tensor in model_of.graph.initializer}
    assert TensorProto.FLOAT in kinds and TensorProto.FLOAT16 not in kinds


def test_it_is_saved_in_half_precision(graph_of: Make, inputs_of: Feed, tmp_path: Path) -> None:
    graph = graph_of(*GRAPH)
    runner, inputs = lower(graph, half="float16"), inputs_of(graph)
    runner.save(tmp_path)
    kept = {t.name: t.data_type for t in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert TensorProto.FLOAT16 in kept.values()
    assert kept["s"] == TensorProto.FLOAT  # the norm's weight
    loaded = target("onnxruntime").load(tmp_path, graph, providers="CPUExecutionProvider")
    torch.testing.assert_close(loaded(inputs), runner(inputs), rtol=0, atol=0)


def test_another_precision_is_refused(graph_of: Make) -> None:
    with pytest.raises(TargetError, match="has no half precision 'bfloat16'"):
        lower(graph_of(*GRAPH), half="bfloat16")


def test_a_missing_provider_is_named(graph_of: Make) -> None:
    with pytest.raises(TargetError, match="this ONNX Runtime has no SuchProvider") as caught:
        lower(graph_of(*GRAPH), providers="SuchProvider,CPUExecutionProvider")
    assert "CPUExecutionProvider" in str(caught.value)


def test_a_provider_that_does_not_start_is_named(
    graph_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, cpu = "AzureExecutionProvider", "CPUExecutionProvider"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [first, cpu])
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda _: [cpu])
    with pytest.raises(TargetError, match=f"could not start its {first}, and would run"):
        lower(graph_of(*GRAPH), providers=first)
