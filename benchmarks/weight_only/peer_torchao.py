"""torchao: rounding to the nearest, HQQ, AWQ and GPTQ of what runs on a processor; activations in
int8, in float8, and in MX's form of four bits, which it emulates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from contest import SCALE_BITS, WHOLE, Case, Made, bits_per_weight, contend, layers
from torch import nn
from torchao.prototype.awq import AWQConfig  # pyright: ignore[reportMissingImports]
from torchao.prototype.float8_opaque_tensor.inference_workflow import (  # pyright: ignore[reportMissingImports]
    Float8DynamicActivationFloat8WeightOpaqueTensorConfig,
)
from torchao.prototype.gptq import GPTQConfig  # pyright: ignore[reportMissingImports]
from torchao.prototype.mx_formats import (  # pyright: ignore[reportMissingImports]
    MXDynamicActivationMXWeightConfig,
)
from torchao.prototype.mx_formats.mx_tensor import (  # pyright: ignore[reportMissingImports]
    ScaleCalculationMode,
)
from torchao.prototype.quantization.int4.inference_workflow import (  # pyright: ignore[reportMissingImports]
    PrototypeInt4WeightOnlyConfig,
)
from torchao.quantization import (  # pyright: ignore[reportMissingImports]
    Float8DynamicActivationFloat8WeightConfig,
    Int4WeightOnlyConfig,
    Int8DynamicActivationIntxWeightConfig,
    IntxWeightOnlyConfig,
    MappingType,
    PerGroup,
    PerRow,
    quantize_,
)
from torchao.quantization.quantize_.common.kernel_preference import (  # pyright: ignore[reportMissingImports]
    KernelPreference,
)


def quantize(case: Case, model: nn.Module) -> Made:
    asked = case.settings
    found = layers(model)
    shapes = [tuple(part.weight.shape) for part in found.values()]

    def ours(part: nn.Module, name: str) -> bool:
        return name in found

    if asked.get("bfloat16"):  # all that its forms of floating point take
        model = model.bfloat16()
    config = form(case)
    algorithm = asked.get("algorithm")
    if algorithm is None:
        quantize_(model, config, ours)
    else:
        first, last = STEPS[algorithm](config)
        quantize_(model, first, ours)
        with torch.no_grad():
            for call in case.batches:
                model(**call)
        quantize_(model, last, ours)
    made = [part for part in layers(model).values() if type(part.weight.data) is not torch.Tensor]
    return Made(model, bits(case, shapes), len(made))


def form(case: Case) -> Any:
    """The configuration of what weights, and perhaps activations, become."""
    asked = case.settings
    if "float8" in asked:
        return FLOAT8[asked["float8"]](granularity=PerRow())
    if "mx" in asked:
        return MXDynamicActivationMXWeightConfig(
            activation_dtype=torch.float4_e2m1fn_x2,
            weight_dtype=torch.float4_e2m1fn_x2,
            kernel_preference=KernelPreference.EMULATED,
            scaling_mode=ScaleCalculationMode(asked["mx"]),
        )
    if asked.get("tiled"):  # its kernels for processors
        if case.bits != 4:
            raise ValueError(f"torchao's kernels have no form of {case.bits} bits")
        if asked.get("algorithm") == "gptq":
            return Int4WeightOnlyConfig(group_size=case.group)  # it takes no other
        return PrototypeInt4WeightOnlyConfig(
            group_size=case.group, int4_choose_qparams_algorithm=asked["parameters"]
        )
    kind, width = MAPPING[asked["symmetric"]], getattr(torch, f"int{case.bits}")
    if "activations" in asked:
        return Int8DynamicActivationIntxWeightConfig(
            weight_dtype=width,
            weight_granularity=PerGroup(case.group),
            weight_mapping_type=kind,
            act_mapping_type=MAPPING[asked["activations"] == "symmetric"],
            intx_choose_qparams_algorithm=asked["parameters"],
        )
    return IntxWeightOnlyConfig(
        weight_dtype=width,
        granularity=PerGroup(case.group),
        mapping_type=kind,
        intx_choose_qparams_algorithm=asked["parameters"],
    )


def bits(case: Case, shapes: Sequence[Sequence[int]]) -> float:
    asked = case.settings
    if "float8" in asked:
        return bits_per_weight(shapes, 8, WHOLE, 0)
    if "mx" in asked:
        return bits_per_weight(shapes, 4, 32, 0, scale=8)
    if asked.get("tiled"):  # zero points are in floating point
        return bits_per_weight(shapes, case.bits, case.group, SCALE_BITS)
    return bits_per_weight(shapes, case.bits, case.group, 0 if asked["symmetric"] else case.bits)


FLOAT8: dict[str, Any] = {
    "processors": Float8DynamicActivationFloat8WeightOpaqueTensorConfig,
    "accelerators": Float8DynamicActivationFloat8WeightConfig,
}
MAPPING = {True: MappingType.SYMMETRIC, False: MappingType.ASYMMETRIC}
STEPS: dict[str, Any] = {
    "awq": lambda base: (AWQConfig(base, step="prepare"), AWQConfig(base, step="convert")),
    "gptq": lambda base: (
        GPTQConfig(step="observe", base_config=base),
        GPTQConfig(step="convert", base_config=base),
    ),
}

if __name__ == "__main__":
    contend(quantize, ["torchao", "transformers", "torch"])
