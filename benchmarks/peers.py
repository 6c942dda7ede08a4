"""The contestants: the plain export, ours, ONNX Runtime's own quantizers, OpenVINO with NNCF."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tasks
import torch

import regauge as rg

Run = Callable[[list[Any]], list[torch.Tensor]]
Made = tuple[Run, int]  # what runs, and its size in bytes


class Missing(Exception):
    """A peer is not installed, or does not take the model."""


def contestants(task: tasks.Task, folder: Path) -> Iterator[tuple[str, Callable[[], Made]]]:
    """Each with what makes it; the first is the plain export, which all are measured against."""
    plain = folder / "plain.onnx"
    yield "ONNX Runtime, float32 (opset 18)", lambda: exported(task, plain)
    for preset in task.presets:
        yield f"Regauge {preset}", lambda preset=preset: ours(task, preset, folder / preset)
    yield "Regauge w8a8 on OpenVINO", lambda: ours_on_openvino(task, folder / "on-openvino")
    for name, passes in task.pipelines.items():
        yield f"Regauge {name}", lambda passes=passes: ours(task, passes, folder / "pipeline")
    yield "ONNX Runtime quantize_dynamic", lambda: dynamic(plain, folder / "dynamic.onnx")
    yield "ONNX Runtime quantize_static", lambda: static(task, plain, folder / "static.onnx")
    yield "OpenVINO with NNCF (SmoothQuant)", lambda: openvino(task, plain)


def needs(*packages: str) -> None:
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise Missing(f"{' and '.join(missing)} not installed")


def session(path: Path) -> Made:
    """An ONNX model on one thread, in the session that a user would make."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    runtime = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in runtime.get_inputs()]

    def run(inputs: list[Any]) -> list[torch.Tensor]:
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return [torch.from_numpy(np.asarray(out)) for out in runtime.run(None, feed)]

    return run, sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def exported(task: tasks.Task, path: Path) -> Made:
    torch.onnx.export(
        task.model,
        (),
        str(path),
        kwargs=task.kwargs,
        dynamo=True,
        opset_version=18,
        external_data=False,
        verbose=False,
    )
    return session(path)


def ours(task: tasks.Task, passes: Any, folder: Path) -> Made:
    compiled(task, passes, "onnxruntime").save(folder)
    return session(next(folder.glob("*.onnx")))


def ours_on_openvino(task: tasks.Task, folder: Path) -> Made:
    needs("openvino")
    compiled(task, "w8a8", "openvino").save(folder)
    artifact = rg.load(folder, options={"threads": 1})
    size = sum(file.stat().st_size for file in folder.glob("*.onnx*"))
    return lambda inputs: list(artifact.runner(inputs)), size


def compiled(task: tasks.Task, passes: Any, target: str) -> rg.Artifact:
    return rg.compile(
        task.model,
        (),
        task.kwargs,
        passes=passes,
        calibration=task.calibration,
        target=target,
        measure=False,
    )


def vector_units() -> str:
    """What the processor has for integers, which decides how much int8 gains."""
    known = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2")
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    return ", ".join(flag for flag in known if flag in flags) or "unknown"


def seven_bits() -> bool:
    """Whether ONNX Runtime's quantizers should leave a bit out of weights, as their documentation
    advises: without VNNI, 16-bit sums of eight-bit weights saturate."""
    return "vnni" not in vector_units()


def dynamic(plain: Path, path: Path) -> Made:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        plain, path, per_channel=True, weight_type=QuantType.QInt8, reduce_range=seven_bits()
    )
    return session(path)


def static(task: tasks.Task, plain: Path, path: Path) -> Made:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    names = list(task.kwargs)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            calls = [dict(zip(names, c.values(), strict=True)) for c in task.calibration]
            self.calls = iter([{k: v.numpy() for k, v in call.items()} for call in calls])

        def get_next(self) -> dict[str, Any] | None:  # type: ignore[override]
            return next(self.calls, None)

    quantize_static(
        plain,
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        reduce_range=seven_bits(),
        op_types_to_quantize=["MatMul", "Gemm"],
    )
    return session(path)


def openvino(task: tasks.Task, plain: Path) -> Made:
    """Post-training quantization as NNCF recommends it for transformers; float32 in between."""
    needs("openvino", "nncf")
    import nncf  # pyright: ignore[reportMissingImports]
    import openvino as ov  # pyright: ignore[reportMissingImports]

    calls = [[value.numpy() for value in call.values()] for call in task.calibration]
    model = nncf.quantize(
        ov.convert_model(str(plain)),
        nncf.Dataset(calls),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(calls),
    )
    path = plain.with_name("openvino.xml")
    ov.save_model(model, str(path))
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(str(path), "CPU", settings)

    def run(inputs: list[Any]) -> list[torch.Tensor]:
        found = compiled([value.numpy() for value in inputs])
        return [torch.from_numpy(np.array(found[out])) for out in compiled.outputs]

    return run, path.stat().st_size + path.with_suffix(".bin").stat().st_size
