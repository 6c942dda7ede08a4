"""NNCF on OpenVINO: rounding to the nearest, AWQ, scale estimation, GPTQ."""

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
    GroupSizeFallbackMode,
)
from torch import nn

FEW = ("i2", "u2", "u3", "i4", "u4")  # element types that codes of few bits are kept in
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
    scope = None if case.causal else nncf.IgnoredScope(types=["Gather"])
    advanced = AdvancedCompressionParameters(
        group_size_fallback_mode=GroupSizeFallbackMode(asked.get("fallback", "error")),
        gptq_params=AdvancedGPTQParameters(damp_percent=asked.get("damp", 0.1)),
    )
    compressed = nncf.compress_weights(
        converted,
        mode=nncf.CompressWeightsMode(f"int{case.bits}_{asked.get('mode', 'asym')}"),
        ratio=1.0,
        group_size=case.group,
        ignored_scope=scope,
        all_layers=not case.causal,
        dataset=nncf.Dataset([call["input_ids"].numpy() for call in case.batches]),
        subset_size=len(case.batches),
        awq=asked.get("awq", False),
        scale_estimation=asked.get("scale_estimation", False),
        gptq=asked.get("gptq", False),
        backup_mode=nncf.BackupMode.NONE,
        advanced_parameters=advanced,
    )
    bits, matrices, note = stored(compressed, case)
    threads = {"INFERENCE_NUM_THREADS": int(os.environ["OMP_NUM_THREADS"])}
    run = ov.Core().compile_model(compressed, "CPU", {**PRECISE, **threads})
    return Made(
        lambda tokens: torch.from_numpy(run([tokens.numpy()])[0].copy()), bits, matrices, note
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
        if scale is None or codes is None or len(codes.shape) < 3:
            continue
        size = math.prod(codes.shape)
        total += size * case.bits + math.prod(scale.shape) * scale.get_element_type().bitwidth
        total += 0 if zero is None else math.prod(zero.shape) * case.bits
        kinds.add(f"{codes.get_element_type().get_type_name()}, groups of {codes.shape[-1]}")
        count, matrices = count + size, matrices + 1
    return total / max(count, 1), matrices, "; ".join(sorted(kinds))


def _constant(node: Any) -> Any:
    """The constant that a node is, or converts; `None` where there is none."""
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None


if __name__ == "__main__":
    contend(quantize, ["nncf", "openvino", "transformers", "torch"])
