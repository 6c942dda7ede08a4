"""GPTQModel: GPTQ, with GPTAQ's correction by the exact inputs where asked, and AWQ."""

from __future__ import annotations

import os
import tempfile
from typing import Any

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # what it takes itself on two cores is refused

import torch
from contest import Case, Made, bits_per_weight, contend, layers
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig  # pyright: ignore[reportMissingImports]
from torch import nn

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
    return Made(Reloaded(case, model), bits, len(shapes) - left)


class Reloaded:
    """What a file gives back. Its layers for processors take float16 alone, so what their codes
    stand for is put into the float32 model, and judged as the others are."""

    def __init__(self, case: Case, model: Any) -> None:
        self.case, self.made, self.model = case, model, None

    def __call__(self, ids: torch.Tensor) -> Any:
        if self.model is None:
            self.model = self._reload()
        return self.model(input_ids=ids)

    def _reload(self) -> nn.Module:
        with tempfile.TemporaryDirectory() as folder:
            self.made.save(folder)
            coded = GPTQModel.load(
                folder, device="cpu", backend=BACKEND.TORCH, dtype=torch.float16
            ).model
        model = self.case.model()
        for name, part in layers(model).items():
            part.weight.data = coded.get_submodule(name).dequantize_weight().T.float().contiguous()
        return model


if __name__ == "__main__":
    contend(quantize, ["gptqmodel", "transformers", "torch"], load)
