"""The main job on the target that people use: compile, save, load, call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regauge as rg
from regauge.backends.onnxruntime import OnnxRuntimeRunner
from regauge.ir import ArtifactError, TargetError
from regauge.ir.interpret import execute
from regauge.passes.fitting import Fitter

Equal = Callable[[Any, Any], None]


def test_exact_on_onnxruntime_returns_what_the_model_returned(
    net: nn.Module, x: Tensor, tmp_path: Path, equal: Equal
) -> None:
    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
    art = rg.compile(net, (x,), dynamic_shapes=shapes)
    assert art.report.target == "onnxruntime" and art.report.errors[0].relative_l2 < 1e-6
    loaded = rg.load(art.save(tmp_path / "out"))
    assert {"model.onnx", "manifest.json", "report.html"} <= {
        p.name for p in (tmp_path / "out").iterdir()
    }
    for batch in (torch.ones(5, 8), torch.ones(1, 8)):
        equal(art(batch), net(batch))
        equal(loaded(batch), net(batch))


@pytest.mark.parametrize("preset", ["w8", "w8a8", "w8a8-dynamic"])
def test_eight_bits_survive_the_disk(
    net: nn.Module, x: Tensor, tmp_path: Path, preset: str
) -> None:
    art = rg.compile(net, (x,), passes=preset, calibration=[x, x + 0.1])
    assert art.report.errors[0].relative_l2 < 0.05
    assert art.report.latency is not None and art.report.bytes_after > 0
    loaded = rg.load(art.save(tmp_path / "out"))
    torch.testing.assert_close(loaded(x)["y"], art(x)["y"], rtol=0, atol=0)


def test_a_saved_artifact_takes_the_targets_options(
    net: nn.Module, x: Tensor, tmp_path: Path, equal: Equal
) -> None:
    saved = rg.compile(net, (x,), passes=[], measure=False).save(tmp_path / "out")
    loaded = rg.load(saved, options={"threads": 1})
    assert isinstance(loaded.runner, OnnxRuntimeRunner) and loaded.runner.threads == 1
    equal(loaded(x), net(x))
    with pytest.raises(TargetError, match="target 'onnxruntime' has no option 'tune'"):
        rg.load(saved, options={"tune": 3})


def test_what_was_learned_runs_there(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)).eval()
    batches = [torch.randn(16, 32, generator=generator) for _ in range(8)]
    fitter = Fitter(steps=20)
    for activations, weights in (("static", "int8-channel"), (None, "int4-g32-asym")):
        passes = [rg.passes.Reconstruct(activations, weights, fitter=fitter)]
        art = rg.compile(model, (batches[0],), passes=passes, calibration=batches, measure=False)
        stored = [node.op for node in art.graph.nodes if node.op in ("dequantize", "decode")]
        assert len(stored) >= 2
        loaded = rg.load(art.save(tmp_path / weights))
        (wanted,) = execute(art.graph, [batches[1]])
        # Kernels of four bits may round what they read as well.
        torch.testing.assert_close(loaded(batches[1]), wanted, rtol=0, atol=0.02)


def test_the_graph_of_a_loaded_artifact_has_no_weights_and_says_so(
    net: nn.Module, x: Tensor, tmp_path: Path
) -> None:
    art = rg.compile(net, (x,), passes=[], measure=False)
    loaded = rg.load(art.save(tmp_path / "out"))
    assert str(loaded.graph) == str(art.graph)
    with pytest.raises(ArtifactError) as error:
        loaded.graph.run(x)
    name = next(iter(art.graph.params))
    assert str(error.value) == (
        f"{name}: the graph of a loaded onnxruntime artifact has no weights\n"
        "  do  call the artifact, or use the graph of the artifact that compile returned"
    )
