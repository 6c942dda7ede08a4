"""llm-compressor: GPTQ or rounding to the nearest, of weights alone or with activations; before it
AWQ, SmoothQuant or SpinQuant."""

from __future__ import annotations

from typing import Any

import torch
from contest import SCALE_BITS, WHOLE, Case, Made, bits_per_weight, contend, layers
from llmcompressor import oneshot  # pyright: ignore[reportMissingImports]
from llmcompressor.modifiers.gptq import GPTQModifier  # pyright: ignore[reportMissingImports]
from llmcompressor.modifiers.quantization import (  # pyright: ignore[reportMissingImports]
    QuantizationModifier,
)
from llmcompressor.modifiers.transform import (  # pyright: ignore[reportMissingImports]
    SmoothQuantModifier,
    SpinQuantModifier,
)
from llmcompressor.modifiers.transform.awq import (  # pyright: ignore[reportMissingImports]
    AWQMapping,
    AWQModifier,
)
from llmcompressor.pipelines.cache import (  # pyright: ignore[reportMissingImports]
    IntermediatesCache,
)
from torch import nn
from torch.utils.data import DataLoader

# It has none for BERT. Its LayerNorms feed shortcuts too, and GELU passes no scale, so this is all.
BERT = [AWQMapping("re:.*attention.self.value$", ["re:.*attention.output.dense$"])]
SCHEME: dict[str, Any] = {"type": "int", "symmetric": True, "strategy": "group"}


def quantize(case: Case, model: nn.Module) -> Made:
    asked = case.settings
    if asked.get("unpinned"):  # AWQ pins memory, which needs an accelerator
        IntermediatesCache.pin_memory = lambda *_: None
    shapes = [tuple(part.weight.shape) for part in layers(model).values()]
    weights = {
        **SCHEME,
        **({} if "weights" in asked else integers(case)),
        **asked.get("weights", {}),
    }
    scheme = {"targets": ["Linear"], "weights": {k: v for k, v in weights.items() if v is not None}}
    if asked.get("activations"):
        scheme["input_activations"] = {"dynamic": True, **asked["activations"]}
    to_do: dict[str, Any] = {"config_groups": {"group_0": scheme}, "ignore": ["lm_head"]}
    recipe: list[Any] = []
    if "spin" in asked:
        recipe.append(SpinQuantModifier(**asked["spin"]))
    if "smooth" in asked:
        recipe.append(SmoothQuantModifier(smoothing_strength=asked["smooth"]))
    if "duo_scaling" in asked:
        mappings = None if case.causal else BERT
        recipe.append(AWQModifier(duo_scaling=asked["duo_scaling"], mappings=mappings))
    if asked["algorithm"] == "gptq":
        recipe.append(
            GPTQModifier(
                **to_do, actorder=asked.get("actorder", "static"), dampening_frac=asked["damp"]
            )
        )
    else:
        recipe.append(QuantizationModifier(**to_do))
    calls = [
        {**call, "attention_mask": torch.ones_like(call["input_ids"])} for call in case.batches
    ]
    oneshot(
        model=model,
        dataset=DataLoader(calls, batch_size=None),  # pyright: ignore[reportArgumentType]
        recipe=recipe,
        num_calibration_samples=len(calls),
    )
    made = [part for part in layers(model).values() if hasattr(part, "quantization_scheme")]
    width, shared = weights["num_bits"], weights["group_size"] or WHOLE
    zero = 0 if weights["symmetric"] else width
    scale = 8 if "scale_dtype" in weights else SCALE_BITS  # an exponent, as MX has it
    return Made(model, bits_per_weight(shapes, width, shared, zero, scale=scale), len(made))


def integers(case: Case) -> dict[str, Any]:
    """What weights alone become."""
    more = {key: case.settings[key] for key in ("symmetric", "observer") if key in case.settings}
    return {"num_bits": case.bits, "group_size": case.group, **more}


if __name__ == "__main__":
    contend(quantize, ["llmcompressor", "compressed-tensors", "transformers", "torch"])
