"""TVM's kernels for GPUs: compiled without one, and run where there is one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import small_models
import torch

import regauge
from regauge.backends.profiles import target
from regauge.backends.tvm import cuda
from regauge.backends.tvm.runner import CudaRunner
from regauge.frontend import trace
from regauge.ir import Graph, NoDevice, TargetError
from regauge.ir.interpret import execute, flatten
from regauge.passes import Context, Quantize
from regauge.passes.manager import difference

tvm = pytest.importorskip("tvm")

Make: TypeAlias = Callable[..., Graph]
Feed: TypeAlias = Callable[..., list[torch.Tensor]]

needs_nvcc = pytest.mark.skipif(cuda.nvcc() is None, reason="needs nvcc")
needs_gpu = pytest.mark.skipif(not tvm.cuda(0).exist, reason="needs a GPU")
needs_none = pytest.mark.skipif(tvm.cuda(0).exist, reason="is of a machine without a GPU")


def mlp() -> tuple[Graph, list[Any]]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 10))
    inputs = torch.randn(16, 32)
    return trace(model.eval(), (inputs,)), [inputs]


def bert() -> tuple[Graph, list[Any]]:
    made = small_models.zoo_model("bert")
    graph = trace(made.model, made.args, made.kwargs)
    return graph, flatten(graph, made.args, made.kwargs)


def int8() -> tuple[Graph, list[Any]]:
    graph, inputs = mlp()
    context = Context(inputs=inputs, calibration=[inputs])
    return Quantize("static", least=0).attempt(graph, context)[0], inputs


MODELS = {"mlp": mlp, "bert": bert, "int8": int8}


@needs_nvcc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("name", MODELS)
def test_source_and_cubin_are_made_without_a_gpu(name: str, arch: str) -> None:
    runner = target("tvm").lower(MODELS[name]()[0], device="cuda", arch=arch)
    assert isinstance(runner, CudaRunner)
    assert runner.kernels.source.count("__global__") >= 2
    assert runner.kernels.cubin is not None
    assert runner.kernels.cubin[:4] == b"\x7fELF"
    assert int.from_bytes(runner.kernels.cubin[18:20], "little") == 190  # NVIDIA's CUDA
    assert runner.notes[-1] == f"CUDA's source, and a cubin for {arch}"


@needs_nvcc
@needs_none
def test_it_is_saved_and_refused_where_there_is_no_gpu(tmp_path: Path) -> None:
    graph, inputs = mlp()
    options = {"device": "cuda", "arch": "sm_80"}
    artifact = regauge.compile(graph, (inputs[0],), target="tvm", options=options)
    notes = "\n".join(artifact.report.notes)
    assert "not measured: target 'tvm' finds no GPU of NVIDIA's on this machine" in notes
    loaded = regauge.load(artifact.save(tmp_path / "made"))
    names = {path.name for path in (tmp_path / "made").iterdir()}
    assert names >= {"model.so", "weights.safetensors", "kernels.cu", "kernels.sm_80.cubin"}
    assert isinstance(loaded.runner, CudaRunner)
    assert isinstance(artifact.runner, CudaRunner)
    assert loaded.runner.kernels == artifact.runner.kernels
    with pytest.raises(NoDevice, match="finds no GPU"):
        loaded(inputs[0])
    again = regauge.load(loaded.save(tmp_path / "again"))
    assert isinstance(again.runner, CudaRunner)
    assert again.runner.kernels == artifact.runner.kernels


@needs_gpu
@pytest.mark.parametrize("name", MODELS)
def test_a_gpu_computes_what_the_interpreter_computes(name: str, tmp_path: Path) -> None:
    graph, inputs = MODELS[name]()
    runner = target("tvm").lower(graph, device="cuda", arch=cuda.present())
    assert difference(runner(inputs), execute(graph, inputs)) < 1e-5
    runner.save(tmp_path)
    torch.testing.assert_close(target("tvm").load(tmp_path, graph)(inputs), runner(inputs))


def test_without_nvcc_there_is_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(program: str, path: str | None = None) -> None:
        return None

    monkeypatch.setattr(shutil, "which", nothing)
    runner = target("tvm").lower(mlp()[0], device="cuda")
    assert isinstance(runner, CudaRunner)
    assert runner.kernels.cubin is None
    assert "there is no nvcc to make a cubin with" in runner.notes[-1]
    with pytest.raises(TargetError, match="compiles kernels for sm_90 with nvcc, and finds none"):
        cuda.assembled(runner.kernels.source, "sm_90")


@needs_nvcc
def test_what_nvcc_does_not_take_is_said() -> None:
    with pytest.raises(TargetError, match=r"nvcc makes no kernels for sm_12: .*sm_12"):
        cuda.assembled("", "sm_12")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "compiles for no device 'tpu'"),
        ({"device": "cuda", "arch": "hopper"}, "knows no architecture 'hopper'"),
    ],
)
def test_unknown_devices_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        target("tvm").lower(mlp()[0], **options)


@needs_none
def test_schedules_are_not_timed_where_there_is_no_gpu() -> None:
    with pytest.raises(NoDevice, match="finds no GPU"):
        target("tvm").lower(mlp()[0], device="cuda", tune=4)
