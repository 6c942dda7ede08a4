"""neural-compressor's API of its version 3: GPTQ, AWQ, HQQ, and rounding to the nearest."""

from __future__ import annotations

import contextlib
from typing import Any

from contest import Case, Made, bits_per_weight, contend, layers
from neural_compressor.torch.quantization import (  # pyright: ignore[reportMissingImports]
    AWQConfig,
    GPTQConfig,
    HQQConfig,
    RTNConfig,
    convert,
    prepare,
)
from torch import nn

CONFIGS: dict[str, Any] = {"gptq": GPTQConfig, "awq": AWQConfig, "hqq": HQQConfig, "rtn": RTNConfig}


def quantize(case: Case, model: nn.Module) -> Made:
    asked = dict(case.settings)
    algorithm = asked.pop("algorithm")
    options = {key: value for key, value in asked.items() if key not in ("bits", "group")}
    shapes = [tuple(part.weight.shape) for part in layers(model).values()]
    config = CONFIGS[algorithm](bits=case.bits, group_size=case.group, **options)
    example = case.batches[0]["input_ids"]
    model = prepare(model, config, example_inputs=example)
    if algorithm in ("gptq", "awq"):
        for call in case.batches:
            with contextlib.suppress(ValueError):  # its way to stop after the first block
                model(**call)
    model = convert(model)
    left = len(layers(model))
    zero = 0 if options.get("use_sym", algorithm != "hqq") else case.bits
    bits = bits_per_weight(shapes, case.bits, case.group, zero)
    return Made(lambda ids: model(input_ids=ids), bits, len(shapes) - left)


if __name__ == "__main__":
    contend(quantize, ["neural-compressor-pt", "transformers", "torch"])
