"""GPTQModel: GPTQ, with GPTAQ's correction by the exact inputs where asked, and AWQ."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # what it takes itself on two cores is refused

import torch
from contest import Case, Made, bits_per_weight, contend, layers
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig  # pyright: ignore[reportMissingImports]

KEYS = ("sym", "desc_act", "act_group_aware", "static_groups", "damp_percent", "mse", "gptaq")


def load(case: Case) -> Any:
    asked = case.settings
    options = {key: asked[key] for key in KEYS if key in asked}
    if "gptaq" in options:
        from gptqmodel.quantization.config import (  # pyright: ignore[reportMissingImports]
            GPTAQConfig,
        )

        options["gptaq"] = GPTAQConfig(**options["gptaq"])
    config = QuantizeConfig(
        bits=case.bits, group_size=case.group, device="cpu", offload_to_disk=False, **options
    )
    return GPTQModel.load(str(case.folder / "model"), config, dtype=torch.float32)


def quantize(case: Case, model: Any) -> Made:
    shapes = [tuple(part.weight.shape) for part in layers(model.model).values()]
    rows = [{"input_ids": ids[None]} for ids in case.tokens["calibration"]]
    for row in rows:
        row["attention_mask"] = torch.ones_like(row["input_ids"])
    model.quantize(rows, batch_size=4, backend=BACKEND.AUTO)
    left = len(layers(model.model))
    zero = 0 if case.settings["sym"] else case.bits
    bits = bits_per_weight(shapes, case.bits, case.group, zero)
    kinds = {type(part).__name__ for part in model.model.modules() if hasattr(part, "qweight")}
    return Made(lambda ids: model.model(input_ids=ids), bits, len(shapes) - left, ", ".join(kinds))


if __name__ == "__main__":
    contend(quantize, ["gptqmodel", "transformers", "torch"], load)
