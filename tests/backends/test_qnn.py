"""Qualcomm's HTP: what is refused before it is asked, and what its simulator computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree
from zoo import digits, digits_resnet, digits_vit

import regauge as rg
from regauge.backends.profiles import TARGETS
from regauge.ir import Graph, TargetError
from regauge.ir.interpret import execute
from regauge.passes import Context, QuantizeResults
from regauge.passes.manager import difference

Make = Callable[..., Graph]
Feed = Callable[..., list[torch.Tensor]]

# Each with the most that its codes of eight and sixteen bits may be apart, in steps; fewer where
# the HTP computes on integers, more where it goes by tables. Two values of sixteen bits it
# multiplies with one of them in fewer.
OPS = {
    "add(x, p)": (1, 4),
    "sub(x, p)": (1, 4),
    "mul(x, p)": (1, 4),
    "div(x, p)": (1, 16),
    "neg(x)": (1, 1),
    "exp(x)": (1, 8),
    "sqrt(p)": (1, 40),
    "rsqrt(p)": (1, 60),
    "relu(x)": (1, 16),
    "gelu(x)": (1, 24),
    "silu(x)": (1, 24),
    "sigmoid(x)": (1, 8),
    "hardsigmoid(x)": (1, 8),
    "hardswish(x)": (1, 8),
    "tanh(x)": (1, 8),
    "softmax(x, dim=-1)": (1, 24),
    "log_softmax(x, dim=-1)": (1, 8),
    "layer_norm(x, normalized_shape=(16,))": (1, 24),
    "mean(x, dim=(2,), keepdim=True)": (1, 8),
    "matmul(x, t)": (2, 600),
    "cat((x, p), dim=1)": (1, 4),
    "transpose(x, dim0=1, dim1=2)": (0, 0),
    "slice(x, dim=2, start=1, end=5)": (0, 0),
    "max_pool1d(x, kernel_size=(2,))": (1, 8),
    "avg_pool1d(x, kernel_size=(2,), stride=(2,), ceil_mode=True)": (1, 8),
    "aten.pad.default(x, pad=(1, 2), mode='reflect')": (0, 0),
}
HEAD = "x: f32[1, 12, 16], p: f32[1, 12, 16], t: f32[1, 16, 12]"


def coded(graph: Graph, inputs: list[torch.Tensor], activations: str) -> Graph:
    context = Context(inputs=inputs, calibration=[inputs])
    return QuantizeResults(activations)(graph, context)[0]


def operands(graph: Graph, inputs_of: Feed) -> list[torch.Tensor]:
    """Random ones, ``p`` from one half on."""
    values = inputs_of(graph)
    return [
        value.abs() + 0.5 if node.name == "p" else value
        for node, value in zip(graph.inputs, values, strict=True)
    ]


def test_what_the_htp_computes_wrong_is_refused(graph_of: Make, inputs_of: Feed) -> None:
    from regauge.backends.qnn import lower

    graph = graph_of("x: f32[1, 8]", "a = exp(x)", "y = log(a)")
    with pytest.raises(TargetError, match="the HTP computes log in u16 wrong") as caught:
        lower(coded(graph, inputs_of(graph), "static16"))
    assert "choose codes of another width" in str(caught.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("aten.pad.default(x, pad=(1, 2), mode='replicate')", "the replicated edges of floats"),
        ("avg_pool1d(x, kernel_size=(3,), stride=(2,), ceil_mode=True)", "means of windows"),
        ("avg_pool1d(x, kernel_size=(3,), stride=(1,), padding=(1,))", "means of windows"),
        ("rms_norm(x, normalized_shape=(20,), eps=1e-06)", "norms without a mean"),
    ],
)
def test_what_the_htp_computes_wrong_in_floats_is_refused(
    graph_of: Make, call: str, words: str
) -> None:
    from regauge.backends.qnn import lower

    with pytest.raises(TargetError, match=f"the HTP computes {words}") as caught:
        lower(graph_of("x: f32[1, 8, 20]", f"y = {call}"))
    assert call in str(caught.value)


def test_an_unknown_generation_is_refused(graph_of: Make) -> None:
    from regauge.backends.qnn import lower

    with pytest.raises(TargetError, match="no generation 66 of the HTP") as caught:
        lower(graph_of("x: f32[1, 8]", "y = relu(x)"), generation=66)
    assert "choose one of 73, 75, 79, 81" in str(caught.value)


@pytest.mark.parametrize(
    ("passes", "text"),
    [
        ("w8a8-dynamic", "target 'qnn' has no kernel for activations in dynamic"),
        ("w4a16", "target 'qnn' has no kernel for weights in int4-g32-asym"),
        ("w6a6", "target 'qnn' has no kernel for weights in int6-channel"),
    ],
)
def test_what_it_has_no_kernel_for_is_refused_before_calibration(passes: str, text: str) -> None:
    if not TARGETS["qnn"].installed:
        pytest.skip("onnxruntime-qnn is not installed")

    def never() -> Any:
        raise AssertionError("data was read")
        yield

    with pytest.raises(TargetError, match=text):
        rg.compile(
            nn.Linear(32, 32), torch.zeros(1, 32), passes=passes, calibration=never(), target="qnn"
        )


class TestRuns:
    """Where ONNX Runtime's plugin for the HTP is installed."""

    @pytest.fixture(autouse=True)
    def needs_plugin(self) -> None:
        pytest.importorskip("onnxruntime_qnn")

    @pytest.mark.parametrize("text", OPS)
    def test_each_op_gives_the_codes_of_the_interpreter(
        self, graph_of: Make, inputs_of: Feed, text: str
    ) -> None:
        from regauge.backends.qnn import lower

        graph = graph_of(HEAD, f"y = {text}")
        inputs = operands(graph, inputs_of)
        assert difference(lower(graph)(inputs), execute(graph, inputs)) < 2e-3  # half precision
        for activations, most in zip(("static", "static16"), OPS[text], strict=True):
            new = coded(graph, inputs, activations)
            (found,), (wanted,) = lower(new)(inputs), execute(new, inputs)
            (last,) = (node for node in new.nodes if node.name == "y")
            step = new.value(next(iter(last.users)).args[1])
            assert float((found - wanted).abs().max() / step) < most + 0.5

    @pytest.mark.parametrize(
        ("passes", "most"), [("exact", 6e-3), ("w8", 1e-2), ("w8a16", 2e-2), ("w8a8", 5e-2)]
    )
    @pytest.mark.parametrize("make", [digits_resnet, lambda: digits_vit(60)], ids=["cnn", "vit"])
    def test_networks_run_on_it_as_a_whole(
        self, make: Callable[[], nn.Module], passes: str, most: float
    ) -> None:
        model, data = make(), digits()
        batches = list(data.train[:64].split(1))
        art = rg.compile(
            model, data.test[:1], passes=passes, calibration=batches, target="qnn", measure=False
        )
        images = data.test[:20].split(1)
        found = torch.cat([art(image) for image in images])
        meant = torch.cat([execute(art.graph, [image])[0] for image in images])
        wanted = model(data.test[:20])
        assert difference((found,), (meant,)) < most
        assert float((found.argmax(1) == wanted.argmax(1)).float().mean()) > 0.9

    def test_the_steps_of_a_recurrent_layer_run_on_it(self) -> None:
        torch.manual_seed(0)
        layer, x = nn.LSTM(6, 8, batch_first=True).eval(), torch.randn(2, 4, 6)
        art = rg.compile(
            layer, (x,), passes="w8a16", calibration=[(x,)], target="qnn", measure=False
        )
        with torch.no_grad():
            wanted = pytree.tree_leaves(layer(x))
        assert difference(pytree.tree_leaves(art(x)), wanted) < 5e-3

    def test_an_op_that_it_lacks_is_named(self, graph_of: Make) -> None:
        from regauge.backends.qnn import lower

        graph = graph_of("x: f32[1, 8]", "a = relu(x)", "y = erf(a)")
        with pytest.raises(TargetError, match=r"the HTP does not take y\.Erf") as caught:
            lower(graph)
        assert "y: f32[1, 8] = erf(a)" in str(caught.value)

    def test_what_fails_on_it_is_not_run_elsewhere(self, graph_of: Make) -> None:
        from regauge.backends.qnn import lower

        runner = lower(graph_of("i: i64[2, 3], *, t: f32[10, 4]", "y = embedding(t, i)"))
        with pytest.raises(TargetError, match="QNN graph execute error"):
            runner([torch.full((2, 3), 10)])

    @pytest.mark.parametrize("passes", ["exact", "w8a8", "w8a16"])
    @pytest.mark.parametrize("include", [True, False])
    @pytest.mark.parametrize("sizes", [(2, 2, 1), (3, 1, 1), (5, 2, 2)])
    def test_means_of_windows_that_reach_out_are_right(
        self, sizes: tuple[int, int, int], include: bool, passes: str
    ) -> None:
        pool = nn.AvgPool2d(*sizes, ceil_mode=True, count_include_pad=include).eval()
        x = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
        art = rg.compile(pool, x, passes=passes, calibration=[x], target="qnn", measure=False)
        most = {"exact": 1e-3, "w8a8": 0.03, "w8a16": 4e-3}[passes]
        assert difference((art(x),), execute(art.graph, [x])) < most
        assert difference((art(x),), (pool(x),)) < most

    @pytest.mark.parametrize("passes", ["exact", "w8a8", "w8a16"])
    def test_groups_and_windows_of_an_image_run_on_it(self, passes: str) -> None:
        class Windows(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.GroupNorm(2, 8)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                parts = self.norm(x).view(2, 8, 2, 5, 2, 5)
                return parts.permute(0, 2, 4, 3, 5, 1).reshape(-1, 25, 8)

        model, x = Windows().eval(), torch.randn(2, 8, 10, 10)
        art = rg.compile(model, x, passes=passes, calibration=[x], target="qnn", measure=False)
        most = {"exact": 1e-3, "w8a8": 0.02, "w8a16": 1e-3}[passes]
        assert difference((art(x),), execute(art.graph, [x])) < most

    @pytest.mark.parametrize("seed", range(3))
    def test_a_batch_norm_that_no_layer_takes_up_is_right_in_codes(self, seed: int) -> None:
        torch.manual_seed(seed)
        norm, x = nn.BatchNorm2d(8).eval(), torch.randn(2, 8, 6, 6)
        norm.running_var = torch.rand(8) + 0.5
        norm.running_mean = torch.randn(8) / 2
        for passes, most in (("w8a8", 0.03), ("w8a16", 0.003)):
            art = rg.compile(norm, x, passes=passes, calibration=[x], target="qnn", measure=False)
            assert difference((art(x),), (norm(x).detach(),)) < most

    @pytest.mark.parametrize(
        ("precision", "words"),
        [("f64", "compile model.float()"), ("bf16", "is in bfloat16, which the HTP does not")],
    )
    def test_another_precision_is_refused(self, graph_of: Make, precision: str, words: str) -> None:
        from regauge.backends.qnn import lower

        with pytest.raises(TargetError) as caught:
            lower(graph_of(f"x: {precision}[2, 8]", "y = tanh(x)"))
        assert words in str(caught.value)

    def test_weights_that_meet_no_codes_are_decoded(self, graph_of: Make, inputs_of: Feed) -> None:
        from regauge.backends.qnn import lower

        graph = graph_of(
            "x: f32[2, 8], *, w: i8[6, 8], w_scale: f32[6, 1]",
            "d: f32[6, 8] = dequantize(w, w_scale)",
            "y: f32[2, 6] = linear(x, d)",
        )
        inputs = inputs_of(graph)
        assert difference(lower(graph)(inputs), execute(graph, inputs)) < 2e-3

    def test_it_is_saved_loaded_and_compiled_for_other_generations(
        self, graph_of: Make, inputs_of: Feed, tmp_path: Path
    ) -> None:
        from regauge.backends.qnn import CHIPS, load, lower

        graph = graph_of("x: f32[1, 64], *, w: f32[64, 64]", "a = linear(x, w)", "y = gelu(a)")
        inputs = inputs_of(graph)
        runner = lower(graph)
        runner.save(tmp_path)
        again = load(tmp_path, graph)
        torch.testing.assert_close(again(inputs), runner(inputs), rtol=0, atol=0)
        for generation in CHIPS:
            path = tmp_path / f"htp{generation}.onnx"
            runner.write_context(path, generation)
            (binary,) = tmp_path.glob(f"htp{generation}*.bin")
            assert binary.stat().st_size > 4096
