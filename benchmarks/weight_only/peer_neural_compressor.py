"""neural-compressor's API of its version 3: GPTQ, AWQ, HQQ, and rounding to the nearest; MX's forms
of activations too."""

from __future__ import annotations

import contextlib
from typing import Any

from contest import Case, Made, bits_per_weight, contend, layers
from neural_compressor.torch.quantization import (  # pyright: ignore[reportMissingImports]
    AWQConfig,
    GPTQConfig,
    HQQConfig,
    MXQuantConfig,
    RTNConfig,
    convert,
    prepare,
)
from torch import nn

CONFIGS: dict[str, Any] = {"gptq": GPTQConfig, "awq": AWQConfig, "hqq": HQQConfig, "rtn": RTNConfig}
OURS = ("bits", "group", "width", "judged")  # settings that are not its own


def quantize(case: Case, model: nn.Module) -> Made:
    asked = dict(case.settings)
    algorithm = asked.pop("algorithm")
    options = {key: value for key, value in asked.items() if key not in OURS}
    shapes = [tuple(part.weight.shape) for part in layers(model).values()]
    if algorithm == "mx":
        config = MXQuantConfig(out_dtype="float32", white_list=list(layers(model)), **options)
    else:
        config = CONFIGS[algorithm](bits=case.bits, group_size=case.group, **options)
    example = case.batches[0]["input_ids"]
    model = prepare(model, config, example_inputs=example)
    if algorithm in ("gptq", "awq"):
        for call in case.batches:
            with contextlib.suppress(ValueError):  # its way to stop after the first block
                model(**call)
    model = convert(model)
    left = [part for part in layers(model).values() if type(part) is nn.Linear]
    if algorithm == "mx":
        bits = bits_per_weight(shapes, case.bits, 32, 0, scale=8)
    else:
        zero = 0 if options.get("use_sym", algorithm != "hqq") else case.bits
        bits = bits_per_weight(shapes, case.bits, case.group, zero)
    return Made(lambda ids: model(input_ids=ids), bits, len(shapes) - len(left))


if __name__ == "__main__":
    contend(quantize, ["neural-compressor-pt", "transformers", "torch"])
