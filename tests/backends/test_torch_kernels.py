"""The target ``torch`` with kernels, in Triton's interpreter: whole models, kept and loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from small_models import ZooModel, zoo_model

import regauge as rg
from regauge.backends import torch_kernels
from regauge.backends.torch_kernels import KernelRunner
from regauge.codegen import Ternary, tuning
from regauge.codegen.tuning import Device, Tuner
from regauge.ir import TargetError
from regauge.ir.interpret import execute
from regauge.passes import Pass, Quantize, Rotate

pytest.importorskip("triton")

CPU = {"device": "cpu"}


def llama() -> ZooModel:
    """Of sizes that all have kernels."""
    sizes: dict[str, Any] = {
        "vocab_size": 96,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
    }
    heads: dict[str, Any] = {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(0)
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, **heads)).eval()
    return ZooModel("llama", model, (torch.arange(14).view(2, 7),), {"use_cache": False})


def compiled(
    name: str, passes: str | Sequence[Pass], **options: Any
) -> tuple[rg.Artifact, tuple[Any, ...]]:
    """A small model with kernels, and its example."""
    zoo = llama() if name == "llama" else zoo_model(name)
    art = rg.compile(
        zoo.model, zoo.args, zoo.kwargs, passes=passes, calibration=[zoo.args],
        target="torch", measure=False, options=CPU | options,
    )  # fmt: skip
    return art, zoo.args


def check(art: rg.Artifact, inputs: tuple[Any, ...], bound: float) -> KernelRunner:
    """The runner gives what the graph gives."""
    flat = [*inputs, *[False] * (len(art.graph.inputs) - len(inputs))]  # use_cache
    runner = art.runner
    assert isinstance(runner, KernelRunner)
    with torch.no_grad():
        wanted = execute(art.graph, flat)
    for mine, theirs in zip(runner(flat), wanted, strict=True):
        assert float((mine - theirs).norm() / theirs.norm()) < bound
    return runner


# Kernels sum in another order: a value that lies at the border of two codes may get the other one.
@pytest.mark.parametrize(
    ("name", "passes", "kernels", "bound"),
    [
        ("llama", "w8a8-dynamic", {"linear": 8, "silu mul dynamic_quantize": 1}, 1e-4),
        ("llama", "fp8", {"linear": 8, "add rms_norm fake_quantize": 2}, 1e-4),
        ("llama", "w6a6", {"linear": 8, "add rms_norm fake_quantize": 2}, 1e-4),
        ("bert", "w8a8", {"linear": 11, "linear gelu": 2, "add layer_norm": 4}, 1e-4),
        ("vit", "w8a8", {"linear": 11, "linear gelu": 2, "add rms_norm quantize": 3}, 1e-4),
    ],
)
def test_models_run_in_kernels(
    name: str, passes: str, kernels: dict[str, int], bound: float
) -> None:
    art, inputs = compiled(name, passes)
    runner = check(art, inputs, bound)
    found = [" ".join(part.kinds) for part in runner.division.placed]
    assert {kind: found.count(kind) for kind in kernels} == kernels
    assert not runner.division.reasons
    assert any(note.startswith("kernels: ") and "linear" in note for note in art.report.notes)
    assert any("scaled_dot_product_attention" in note for note in art.report.notes)


def test_one_token_is_multiplied_by_bits() -> None:
    zoo = llama()
    token = (torch.tensor([[5]]),)
    art = rg.compile(
        zoo.model, token, zoo.kwargs, passes="w6a6", calibration=[token],
        target="torch", measure=False, options=CPU,
    )  # fmt: skip
    runner = check(art, token, 1e-4)
    families = [type(part.region).__name__ for part in runner.division.placed]
    assert families.count("Bitplanes") == 8 and "Matmul" not in families
    assert not runner.division.reasons


def test_weights_of_four_bits_and_an_artifact(tmp_path: Path) -> None:
    art, inputs = compiled("llama", "w4a16", half="float16")
    runner = check(art, inputs, 2e-3)  # 2^-11, of steps and of what each layer takes
    families = [type(part.region).__name__ for part in runner.division.placed]
    assert families.count("Grouped") == 8
    again = rg.load(art.save(tmp_path / "kept"))
    assert isinstance(again.runner, KernelRunner)
    assert again.runner.settings == runner.settings
    assert again.runner.division.notes == runner.division.notes
    flat = [*inputs, False]
    for mine, theirs in zip(again.runner(flat), runner(flat), strict=True):
        assert torch.equal(mine, theirs)


def test_ternary_weights_are_multiplied_by_what_is_turned() -> None:
    steps = Rotate(residual=None, heads=None, inputs=64), Quantize(None, "ternary-g64")
    art, inputs = compiled("llama", steps, half="float16")
    runner = check(art, inputs, 2e-3)
    found = [part.kinds for part in runner.division.placed if isinstance(part.region, Ternary)]
    # All but the one that reads 96 channels.
    assert found == [("reshape", "linear", "reshape", "linear")] * 7
    assert not [name for name in runner.division.graph.params if "rotation" in name]


def test_without_a_device_the_graph_is_simulated() -> None:
    zoo = zoo_model("llama")
    art = rg.compile(zoo.model, zoo.args, zoo.kwargs, target="torch", measure=False)
    assert not isinstance(art.runner, KernelRunner)
    with pytest.raises(TargetError, match="option 'half' is for kernels"):
        rg.compile(zoo.model, zoo.args, zoo.kwargs, target="torch", options={"half": "float16"})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"device": "cuda:7"}, "kernels are to run on cuda:7, and PyTorch finds no such device"),
        ({"device": "gpu"}, "there is no device 'gpu'"),
        ({"device": "meta"}, "kernels run on cuda, not on meta"),
        ({"device": "cpu", "half": "int8"}, "kernels compute in no 'int8'"),
        ({"device": "cpu", "tries": -1}, "cannot time -1 options"),
    ],
)
def test_refuses(options: dict[str, Any], reason: str) -> None:
    graph = rg.trace(torch.nn.ReLU().eval(), (torch.ones(2),))
    with pytest.raises(TargetError, match=reason):
        rg.compile(graph, (torch.ones(2),), target="torch", options=options)


def test_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = rg.trace(torch.nn.ReLU().eval(), (torch.ones(2),))
    knobs = sys.modules["triton"].knobs
    with monkeypatch.context() as patch:
        patch.setattr(knobs.runtime, "interpret", False)
        with pytest.raises(TargetError, match="TRITON_INTERPRET=1"):
            rg.compile(graph, (torch.ones(2),), target="torch", options=CPU)
    with monkeypatch.context() as patch:
        patch.setattr(torch_kernels.importlib.util, "find_spec", lambda _: None)
        with pytest.raises(TargetError, match=r"regauge\[triton\]"):
            torch_kernels.device_named("cuda")
    gpu = torch.device("cuda", 0)
    with pytest.raises(TargetError, match="TRITON_INTERPRET is set"):
        torch_kernels.check_compilers(gpu)
    monkeypatch.setattr(knobs.runtime, "interpret", False)
    monkeypatch.setattr(tuning, "device_of", lambda _: Device("NVIDIA V100", 70))
    with pytest.raises(TargetError, match="capability 80 or more, and this has 70"):
        torch_kernels.check_compilers(gpu)
    monkeypatch.setattr(tuning, "device_of", lambda _: Device("NVIDIA H200", 90))
    monkeypatch.setattr(torch_kernels.shutil, "which", lambda _: None)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(TargetError, match="C compiler, and finds none"):
        torch_kernels.check_compilers(gpu)


def test_what_an_artifact_has_of_another_device_is_said(tmp_path: Path) -> None:
    here = Tuner(tmp_path / "here", Device("NVIDIA H200", 90, 132, "3.9.0"))
    kept = {"device": asdict(Device("NVIDIA A100", 80, 108, "3.9.0")), "options": {"a": {}}}
    with pytest.warns(RuntimeWarning, match="tuned on NVIDIA A100 .* this is NVIDIA H200"):
        torch_kernels.adopt(here, kept, "kernels.json")
    assert here.found == {}
    torch_kernels.adopt(here, kept | {"device": asdict(here.device)}, "kernels.json")
    assert here.found == {"a": {}}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # PyTorch's of itself
def test_the_rest_is_compiled_by_inductor() -> None:
    torch.manual_seed(0)
    layers = (torch.nn.RMSNorm(64), torch.nn.Linear(64, 48, bias=False), torch.nn.Tanh())
    x = torch.randn(5, 64)
    art = rg.compile(
        torch.nn.Sequential(*layers).eval(), x, passes=[Quantize("dynamic", rounding="nearest")],
        calibration=[x], target="torch", measure=False, options=CPU | {"fuse": True},
    )  # fmt: skip
    runner = check(art, (x,), 1e-5)
    assert [" ".join(part.kinds) for part in runner.division.placed] == [
        "rms_norm dynamic_quantize",
        "linear",
    ]
    assert "what is no kernel is put through torch.compile" in runner.notes
