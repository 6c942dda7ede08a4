"""NNCF on OpenVINO: rounding to the nearest, AWQ, scale estimation, GPTQ; eight bits of floating
point, of activations too."""

from __future__ import annotations

import math
import os
from typing import Any

import nncf  # pyright: ignore[reportMissingImports]
import openvino as ov  # pyright: ignore[reportMissingImports]
import torch
from contest import Case, Made, contend
from nncf.quantization.advanced_parameters import (  # pyright: ignore[reportMissingImports]
    AdvancedCompressionParameters,
    AdvancedGPTQParameters,
    AdvancedQuantizationParameters,
    AdvancedSmoothQuantParameters,
    GroupSizeFallbackMode,
)
from torch import nn

PRECISE = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


class FirstOutput(nn.Module):
    """Logits or hidden states alone, of tokens alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids)[0]


def quantize(case: Case, model: nn.Module) -> Made:
    asked = case.settings
    ids = case.batches[0]["input_ids"]
    with torch.no_grad():  # of what is traced by running, the masks of some models are lost
        program = torch.export.export(FirstOutput(model), (ids,), strict=False)
    converted = ov.convert_model(program)
    for parameter in model.parameters():  # OpenVINO has a copy
        parameter.data = torch.empty(0)
    dataset = nncf.Dataset([call["input_ids"].numpy() for call in case.batches])
    make = float8 if asked.get("width") == "fp8" else compressed
    made = make(case, converted, dataset)
    bits, matrices, note = stored(made, case)
    threads = {"INFERENCE_NUM_THREADS": int(os.environ["OMP_NUM_THREADS"])}
    run = ov.Core().compile_model(made, "CPU", {**PRECISE, **threads})
    return Made(
        lambda tokens: torch.from_numpy(run([tokens.numpy()])[0].copy()), bits, matrices, note
    )


def compressed(case: Case, model: Any, dataset: Any) -> Any:
    """Weights alone."""
    asked = case.settings
    mode = asked.get("format") or f"int{case.bits}_{asked.get('mode', 'asym')}"
    advanced = AdvancedCompressionParameters(
        group_size_fallback_mode=GroupSizeFallbackMode(asked.get("fallback", "error")),
        gptq_params=AdvancedGPTQParameters(damp_percent=asked.get("damp", 0.1)),
    )
    return nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode(mode),
        ratio=1.0,
        group_size=case.group,
        ignored_scope=None if case.causal else nncf.IgnoredScope(types=["Gather"]),
        all_layers=not case.causal,
        dataset=dataset,
        subset_size=len(case.batches),
        awq=asked.get("awq", False),
        scale_estimation=asked.get("scale_estimation", False),
        gptq=asked.get("gptq", False),
        backup_mode=nncf.BackupMode.NONE,
        advanced_parameters=advanced,
    )


def float8(case: Case, model: Any, dataset: Any) -> Any:
    """Weights and activations in E4M3, both with scales that stay."""
    products = [op for op in model.get_ordered_ops() if op.get_type_name() == "MatMul"]
    linear = [op for op in products if _constant(op.input_value(1).get_node()) is not None]
    linear = linear[:-1] if case.causal else linear  # the last is the head
    names = {op.get_friendly_name() for op in linear}
    rest = [op.get_friendly_name() for op in model.get_ordered_ops()]
    smooth = case.settings["smooth"]  # -1 for none
    return nncf.quantize(
        model,
        dataset,
        mode=nncf.QuantizationMode.FP8_E4M3,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(case.batches),
        ignored_scope=nncf.IgnoredScope(names=[n for n in rest if n not in names], validate=False),
        advanced_parameters=AdvancedQuantizationParameters(
            smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=smooth)
        ),
    )


def stored(model: Any, case: Case) -> tuple[float, int, str]:
    """Bits of a quantized weight, how many matrices, and the types that their codes are kept in."""
    total = count = matrices = 0
    kinds: set[str] = set()
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Multiply":
            continue
        scale = _constant(node.input_value(1).get_node())
        codes, zero = node.input_value(0).get_node(), None
        if codes.get_type_name() == "Subtract":
            zero = _constant(codes.input_value(1).get_node())
            codes = codes.input_value(0).get_node()
        codes = _constant(codes)
        if scale is None or codes is None:
            continue
        kind, size = codes.get_element_type().get_type_name(), math.prod(codes.shape)
        eight = kind == "f8e4m3"
        if not eight and len(codes.shape) < 3:
            continue
        total += size * (8 if eight else case.bits)
        total += math.prod(scale.shape) * scale.get_element_type().bitwidth
        total += 0 if zero is None else math.prod(zero.shape) * case.bits
        kinds.add(kind if eight else f"{kind}, groups of {codes.shape[-1]}")
        count, matrices = count + size, matrices + 1
    return total / max(count, 1), matrices, "; ".join(sorted(kinds))


def _constant(node: Any) -> Any:
    """The constant that a node is, or converts; `None` where there is none."""
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None


if __name__ == "__main__":
    contend(quantize, ["nncf", "openvino", "transformers", "torch"])
