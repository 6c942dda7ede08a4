"""Activations and weights of four bits, simulated: what contractions read in any format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from regauge.ir import Graph, Node, astype
from regauge.ir.formats import Format, Parameters
from regauge.ir.gauge import inputs_of_contractions
from regauge.ir.interpret import Read
from regauge.passes import Context
from regauge.passes.calibration import SAMPLE, Observation, as_matrix, observe

Found: TypeAlias = tuple[Format, Parameters]
# Get what was seen of a value and the weights that read it, [O, n]; or a weight and such rows.
OfRows: TypeAlias = Callable[[Observation, list[torch.Tensor]], Found]
OfWeight: TypeAlias = Callable[[torch.Tensor, torch.Tensor], Found]


def reading(
    graph: Graph, context: Context, of_rows: OfRows, of_weight: OfWeight, sample: int = SAMPLE
) -> Read:
    """What linear layers read, as formats chosen on a sample of rows of calibration data give it
    back; what other contractions read is left as it is."""
    single = astype(graph, torch.float32)
    sites = [site for site in inputs_of_contractions(single) if site.axis == -1]
    seen = observe(
        single, context, {site.value.name: -1 for site in sites}, "four bits", sample=sample
    )
    chosen: dict[tuple[str, str], Found] = {}
    weights: dict[tuple[str, str], torch.Tensor] = {}
    for site in sites:
        weighing = [as_matrix(single.value(reader.args[1])) for reader in site.readers]
        found = of_rows(seen[site.value.name], weighing)
        for reader, weight in zip(site.readers, weighing, strict=True):
            chosen[reader.name, site.value.name] = found
            form, parameters = of_weight(weight, seen[site.value.name].rows)
            value = form.quantize(weight, parameters).dequantize()
            weights[reader.name, reader.args[1].name] = value

    def read(reader: Node, used: Node, value: Any) -> Any:
        place = (reader.name, used.name)
        if place in weights:
            return weights[place]
        if place in chosen:
            form, parameters = chosen[place]
            return form.fake(value, parameters)
        return value

    return read
