"""ModelOpt: rounding to the nearest of weights and activations, and AWQ's scales."""

from __future__ import annotations

from typing import Any, cast

import modelopt.torch.quantization as mtq  # pyright: ignore[reportMissingImports]
from contest import SCALE_BITS, WHOLE, Case, Made, bits_per_weight, contend, layers
from torch import nn

EXPONENT = (8, 0)  # eight bits of exponent: what MX's blocks share


def quantize(case: Case, model: nn.Module) -> Made:
    """Weights in groups, or with a scale a channel; activations in blocks, or with a scale a token
    or for the tensor; all symmetric."""
    asked = case.settings
    shapes = [tuple(part.weight.shape) for part in layers(model).values()]
    group, block = asked.get("group"), asked.get("block")
    weights: dict[str, Any] = {"num_bits": asked["weights"]}
    activations: dict[str, Any] = {"num_bits": asked["activations"]}
    if asked.get("static"):  # of the tensor; AWQ takes no other
        activations["axis"] = None
    else:
        activations["type"] = "dynamic"
    if asked.get("mx"):
        shared = {-1: group, "type": "dynamic", "scale_bits": EXPONENT}
        weights["block_sizes"] = activations["block_sizes"] = shared
    else:
        weights |= {"block_sizes": {-1: group}} if group else {"axis": 0}
        if not asked.get("static"):
            activations |= {"block_sizes": {-1: block}} if block else {"axis": (0, 1)}
    to_do: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    for name in layers(model):  # by a pattern it takes norms and tables as well
        to_do += [
            {"quantizer_name": f"{name}.weight_quantizer", "cfg": as_read(weights)},
            {"quantizer_name": f"{name}.input_quantizer", "cfg": as_read(activations)},
        ]

    def calibrate(model: nn.Module) -> None:
        for call in case.batches:
            model(**call)

    model = mtq.quantize(model, {"quant_cfg": to_do, "algorithm": asked["method"]}, calibrate)
    made = [p for p in layers(model).values() if cast(Any, p).weight_quantizer.is_enabled]
    width = sum(asked["weights"]) + 1 if isinstance(asked["weights"], list) else asked["weights"]
    scale = EXPONENT[0] if asked.get("mx") else SCALE_BITS
    bits = bits_per_weight(shapes, width, group or WHOLE, 0, scale=scale)
    return Made(model, bits, len(made))


def as_read(settings: dict[str, Any]) -> dict[str, Any]:
    """Numbers of exponent and mantissa, which JSON has as a list, as a pair."""
    bits = settings["num_bits"]
    return {**settings, "num_bits": tuple(bits) if isinstance(bits, list) else bits}


if __name__ == "__main__":
    contend(quantize, ["nvidia-modelopt", "transformers", "torch"])
