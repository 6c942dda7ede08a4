"""A95: weights as tensor trains (matrix product operators) of growing bonds, against the singular
value decomposition with as many parameters, and by depth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from base import Figures, publish, smollm2
from layers import Layer, layers
from structured import DAMPING, is_wide

from regauge.passes import Kronecker, LowRank, TensorTrain
from regauge.passes.structure.factors.forms import Form

BLOCKS = (1, 10, 19, 28)
PARTS = (0.7, 0.5, 0.3, 0.1)  # of the parameters
FORMS: tuple[Form, ...] = (LowRank(), Kronecker(), TensorTrain())
SAYS = (
    "{subject}; the feed-forward layers of blocks {blocks}, each by itself: the part of the power "
    "of its result that is lost on other text. Claimed (A95): tensor networks compress the layers "
    "of language models far, the deeper ones best. Bonds are the greatest with which so many "
    "parameters are left. Of each pair the first is fitted to the weights alone, the second to "
    "what the layer reads (for low rank the optimum; for chains by the partial traces of the "
    "Hessian). Not borne out here: with as many parameters low rank loses the least everywhere, "
    "half or less of what chains lose, and chains of three lose more than sums of Kronecker "
    "products down to 0.3; fitted to what is read, all lose about half as much. The last of these "
    "blocks is the one that compresses best, the ones between no better than the first."
)


def measure() -> Figures:
    subject = smollm2(12, 4)  # two batches to fit to, one to judge by
    calibration = replace(subject, calibration=subject.calibration[:2])
    found = [x for x in layers(calibration, subject.calibration[2:], BLOCKS) if is_wide(x)]
    lost: dict[tuple[Form, float], torch.Tensor] = {}  # [layers, 2]
    bonds: dict[tuple[Form, float], int] = {}
    for form in FORMS:
        parts = [_lost(layer, form) for layer in found]
        for column, part in enumerate(PARTS):
            lost[form, part] = torch.stack([p[column] for p in parts])
            bonds[form, part] = _rank(found[0], form, part)
    rows: list[list[Any]] = []
    each = len(found) // len(BLOCKS)
    for (form, part), values in lost.items():
        by_block = values.reshape(len(BLOCKS), each, 2).mean(1)
        cells = [f"{a:.3f}, {b:.3f}" for a, b in by_block.tolist()]
        mean = "{:.3f}, {:.3f}".format(*values.mean(0).tolist())
        rows.append([f"{part:g}", str(form), bonds[form, part], mean, *cells])
        print(rows[-1], flush=True)
    rows.sort(key=lambda row: -float(row[0]))
    return Figures(rows, {"subject": subject.title, "blocks": ", ".join(map(str, BLOCKS))})


def _lost(layer: Layer, form: Form) -> torch.Tensor:
    """``[parts, 2]``: fitted to the weights, and to data."""
    whole = layer.fresh.cost(layer.weight).sum()
    ways: list[torch.Tensor] = []
    for hessian in (None, layer.hessian):
        fit = form.fit(layer.weight, hessian, DAMPING)
        errors = [layer.weight - form.dense(fit(_rank(layer, form, part))) for part in PARTS]
        ways.append(torch.stack([layer.fresh.cost(error).sum() / whole for error in errors]))
    return torch.stack(ways, 1)


def _rank(layer: Layer, form: Form, part: float) -> int:
    outputs, inputs = (int(size) for size in layer.weight.shape)
    return form.rank_within(outputs, inputs, part * layer.weight.numel())


if __name__ == "__main__":
    publish(
        "tensor_networks",
        "Tensor networks against low rank, by bond and by depth (A95)",
        SAYS,
        ["parameters", "form", "rank or bond", "lost", *(f"block {block}" for block in BLOCKS)],
        measure,
    )
