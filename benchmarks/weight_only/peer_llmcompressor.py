"""llm-compressor: GPTQ, and AWQ before rounding to the nearest or before GPTQ."""

from __future__ import annotations

from typing import Any

import torch
from contest import Case, Made, bits_per_weight, contend, layers
from llmcompressor import oneshot  # pyright: ignore[reportMissingImports]
from llmcompressor.modifiers.gptq import GPTQModifier  # pyright: ignore[reportMissingImports]
from llmcompressor.modifiers.quantization import (  # pyright: ignore[reportMissingImports]
    QuantizationModifier,
)
from llmcompressor.modifiers.transform.awq import (  # pyright: ignore[reportMissingImports]
    AWQModifier,
)
from llmcompressor.pipelines.cache import (  # pyright: ignore[reportMissingImports]
    IntermediatesCache,
)
from torch import nn
from torch.utils.data import DataLoader


def quantize(case: Case, model: nn.Module) -> Made:
    asked = case.settings
    if asked.get("unpinned"):  # AWQ pins memory, which needs an accelerator
        IntermediatesCache.pin_memory = lambda *_: None
    shapes = [tuple(part.weight.shape) for part in layers(model).values()]
    weights = {
        "num_bits": case.bits,
        "type": "int",
        "symmetric": asked["symmetric"],
        "strategy": "group",
        "group_size": case.group,
        **({"observer": asked["observer"]} if "observer" in asked else {}),
    }
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    recipe: list[Any] = []
    if "duo_scaling" in asked:
        recipe.append(AWQModifier(duo_scaling=asked["duo_scaling"]))
    if asked["algorithm"] == "gptq":
        recipe.append(
            GPTQModifier(
                config_groups=groups,
                ignore=["lm_head"],
                actorder=asked["actorder"],
                dampening_frac=asked["damp"],
            )
        )
    else:
        recipe.append(QuantizationModifier(config_groups=groups, ignore=["lm_head"]))
    calls = [
        {**call, "attention_mask": torch.ones_like(call["input_ids"])} for call in case.batches
    ]
    oneshot(
        model=model,
        dataset=DataLoader(calls, batch_size=None),  # pyright: ignore[reportArgumentType]
        recipe=recipe,
        num_calibration_samples=len(calls),
    )
    zero = 0 if asked["symmetric"] else case.bits
    made = [part for part in layers(model).values() if hasattr(part, "quantization_scheme")]
    return Made(model, bits_per_weight(shapes, case.bits, case.group, zero), len(made))


if __name__ == "__main__":
    contend(quantize, ["llmcompressor", "compressed-tensors", "transformers", "torch"])
