"""torchao: rounding to the nearest, HQQ, AWQ and GPTQ of what runs on a processor."""

from __future__ import annotations

from typing import Any

import torch
from contest import Case, Made, bits_per_weight, contend, layers
from torch import nn
from torchao.prototype.awq import AWQConfig  # pyright: ignore[reportMissingImports]
from torchao.prototype.gptq import GPTQConfig  # pyright: ignore[reportMissingImports]
from torchao.quantization import (  # pyright: ignore[reportMissingImports]
    Int4WeightOnlyConfig,
    IntxWeightOnlyConfig,
    MappingType,
    PerGroup,
    quantize_,
)


def quantize(case: Case, model: nn.Module) -> Made:
    asked = case.settings
    found = layers(model)
    shapes = [tuple(part.weight.shape) for part in found.values()]

    def ours(part: nn.Module, name: str) -> bool:
        return name in found

    config, zero = form(case), 0 if asked.get("symmetric") else case.bits
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
    return Made(model, bits_per_weight(shapes, case.bits, case.group, zero), len(made))


def form(case: Case) -> Any:
    """The configuration of what weights become."""
    if case.settings.get("tiled"):  # the form that its kernels for processors take
        return Int4WeightOnlyConfig(
            group_size=case.group,
            int4_packing_format="opaque",
            int4_choose_qparams_algorithm=case.settings["parameters"],
        )
    kind = MappingType.SYMMETRIC if case.settings["symmetric"] else MappingType.ASYMMETRIC
    return IntxWeightOnlyConfig(
        weight_dtype=getattr(torch, f"int{case.bits}"),
        granularity=PerGroup(case.group),
        mapping_type=kind,
        intx_choose_qparams_algorithm=case.settings["parameters"],
    )


STEPS: dict[str, Any] = {
    "awq": lambda base: (AWQConfig(base, step="prepare"), AWQConfig(base, step="convert")),
    "gptq": lambda base: (
        GPTQConfig(step="observe", base_config=base),
        GPTQConfig(step="convert", base_config=base),
    ),
}

if __name__ == "__main__":
    contend(quantize, ["torchao", "transformers", "torch"])
