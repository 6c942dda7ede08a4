"""Programs for ExecuTorch: their form, XNNPACK's kernels, and the Ethos-U's reference model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from zoo import digits, digits_resnet

import regauge as rg
from regauge.backends.executorch.program import exported
from regauge.ir import Graph, TargetError
from regauge.ir.interpret import execute
from regauge.passes import Context, Quantize, QuantizeResults
from regauge.passes.manager import difference

Make = Callable[..., Graph]
Feed = Callable[..., list[torch.Tensor]]

BLOCK = (
    "x: f32[1, 4, 8, 8], *, a: f32[8, 4, 3, 3], b: f32[8], c: f32[8, 8, 3, 3]",
    "p = conv2d(x, a, b, padding=(1, 1))",
    "q = relu(p)",
    "r = conv2d(q, c, padding=(1, 1))",
    "s = add(r, q)",
    "y = relu(s)",
)
OPS = (
    "add(x, x)",
    "mul(x, 0.3)",
    "sigmoid(x)",
    "tanh(x)",
    "gelu(x)",
    "exp(x)",
    "amax(x, dim=(2,), keepdim=True)",
    "sum(x, dim=(2,), keepdim=True)",
    "cat((x, x), dim=1)",
    "slice(x, dim=1, start=1, end=3)",
    "transpose(x, dim0=1, dim1=2)",
    "linear(x, w, b)",
)


def coded(graph: Graph, inputs: list[torch.Tensor]) -> Graph:
    context = Context(inputs=inputs, calibration=[inputs], unsigned_activations=False)
    new, _ = Quantize("static", least=0).attempt(graph, context)
    return QuantizeResults().attempt(new, context)[0]


def targets_of(graph: Graph, *, biases: bool) -> list[str]:
    nodes = exported(graph, biases=biases).graph.nodes
    return [str(node.target) for node in nodes if node.op == "call_function"]


def test_a_program_computes_what_the_graph_computes(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(*BLOCK)
    inputs = inputs_of(graph)
    new = coded(graph, inputs)
    for biases in (True, False):
        found = exported(new, biases=biases).module()(*inputs)
        assert difference((found,), execute(new, inputs)) < 1e-2  # a code apart here and there


def test_a_program_has_the_form_that_partitioners_look_for(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of(*BLOCK)
    new = coded(graph, inputs_of(graph))
    found = targets_of(new, biases=True)
    assert not any("relu" in name for name in found)  # the least code is zero
    assert sum("dequantize_per_channel" in name for name in found) == 3  # two weights, one bias
    assert sum("dequantize_per_tensor" in name for name in found) == 5  # q has two readers
    assert sum("dequantize_per_channel" in n for n in targets_of(new, biases=False)) == 2


def test_a_clip_that_the_codes_do_not_say_stays(graph_of: Make, inputs_of: Feed) -> None:
    graph = graph_of("x: f32[1, 8]", "a = hardtanh(x, min_val=-0.5, max_val=0.5)", "y = gelu(a)")
    inputs = inputs_of(graph)
    context = Context(inputs=inputs, calibration=[inputs], unsigned_activations=False)
    new, _ = QuantizeResults()(graph, context)
    assert any("hardtanh" in name for name in targets_of(new, biases=True))


@pytest.mark.filterwarnings("ignore")  # ExecuTorch's are about what it imports
class TestXnnpack:
    """Where ExecuTorch is installed."""

    @pytest.fixture(autouse=True)
    def needs_executorch(self) -> None:
        pytest.importorskip("executorch")

    @pytest.mark.parametrize(("passes", "most"), [("exact", 1e-5), ("w8a8", 2e-2)])
    def test_a_network_runs_by_xnnpack_alone(
        self, passes: str, most: float, tmp_path: Path
    ) -> None:
        model, data = digits_resnet(), digits()
        batches = list(data.train[:64].split(1))
        art = rg.compile(
            model, data.test[:1], passes=passes, calibration=batches, target="xnnpack",
            measure=False,
        )  # fmt: skip
        images = data.test[:20].split(1)
        found = torch.cat([art(image) for image in images])
        meant = torch.cat([execute(art.graph, [image])[0] for image in images])
        assert difference((found,), (meant,)) < most
        assert not any("portable" in note for note in art.report.notes)
        again = rg.load(art.save(tmp_path / "art"))
        assert torch.equal(again(images[0]), found[:1])

    def test_what_it_has_no_kernel_for_is_said(self, graph_of: Make, inputs_of: Feed) -> None:
        from regauge.backends.executorch.xnnpack import lower

        graph = graph_of("x: f32[1, 8]", "a = erf(x)", "y = sigmoid(a)")
        inputs, runner = inputs_of(graph), lower(graph)
        assert runner.notes == ("not by XNNPACK but by ExecuTorch's portable kernels: 1 aten::erf",)
        assert difference(runner(inputs), execute(graph, inputs)) < 1e-5


@pytest.mark.filterwarnings("ignore")
class TestEthosU:
    """Where Vela and Arm's reference model are installed."""

    @pytest.fixture(autouse=True)
    def needs_arm(self) -> None:
        pytest.importorskip("tosa_reference_model")

    @pytest.mark.parametrize("text", OPS)
    def test_each_op_gives_the_codes_of_the_interpreter(
        self, graph_of: Make, inputs_of: Feed, text: str
    ) -> None:
        from regauge.backends.executorch.ethos_u import lower

        head = "x: f32[1, 5, 16]" + ", *, w: f32[8, 16], b: f32[8]" * ("w" in text)
        graph = graph_of(head, f"y = {text}")
        inputs = inputs_of(graph)
        new = coded(graph, inputs)
        (found,), (wanted,) = lower(new)(inputs), execute(new, inputs)
        (last,) = (node for node in new.nodes if node.name == "y")
        step = new.value(next(iter(last.users)).args[1])
        assert float((found - wanted).abs().max() / step) < 1.5

    def test_a_network_runs_on_it_as_a_whole(self, tmp_path: Path) -> None:
        model, data = digits_resnet(), digits()
        batches = list(data.train[:64].split(1))
        art = rg.compile(
            model, data.test[:1], passes="w8a8", calibration=batches, target="ethos-u",
            measure=False, options={"accelerator": "ethos-u85-256"},
        )  # fmt: skip
        images = data.test[:20].split(1)
        found = torch.cat([art(image) for image in images])
        meant = torch.cat([execute(art.graph, [image])[0] for image in images])
        assert difference((found,), (meant,)) < 2e-2
        first, second, *_ = art.report.notes
        assert first.startswith("on ethos-u85-256, as Vela counts: ") and " cycles, " in first
        assert "reference model" in second
        again = rg.load(art.save(tmp_path / "art"))
        assert torch.equal(again(images[0]), found[:1])

    def test_the_steps_of_a_recurrent_layer_run_on_it(self) -> None:
        torch.manual_seed(0)
        layer, x = torch.nn.GRU(6, 8, batch_first=True).eval(), torch.randn(1, 4, 6)
        art = rg.compile(
            layer, (x,), passes="w8a8", calibration=[(x,)], target="ethos-u", measure=False
        )
        found = art(x)
        assert difference(found, execute(art.graph, [x])) < 2e-2  # a code apart here and there
        with torch.no_grad():
            assert difference(found, layer(x)) < 0.05

    def test_what_does_not_run_on_it_is_refused(self, graph_of: Make, inputs_of: Feed) -> None:
        from regauge.backends.executorch.ethos_u import lower

        graph = graph_of("x: f32[1, 5, 16]", "y = softmax(x, dim=-1)")
        with pytest.raises(TargetError, match="the Ethos-U does not take aten::_softmax"):
            lower(coded(graph, inputs_of(graph)))
        graph = graph_of("x: f32[1, 5, 16]", "y = sigmoid(x)")
        with pytest.raises(TargetError, match="the Ethos-U does not take aten::sigmoid"):
            lower(graph)  # in floating point
